// Draws an emoji file (PNG, WebP, SVG) as 64 px RGB on white. Used when the pack is built, never at run time.
import { createCanvas, loadImage } from '@napi-rs/canvas';

export const SIZE = 64;

/**
 * Decodes `image` and returns RGB bytes [64, 64, 3].
 * The picture is drawn over white at its own size, where source-over is exact and the result opaque (reading
 * transparent pixels back from a canvas would lose colour to premultiplied alpha), then reduced by the mean
 * of each k x k square. A picture that is no square multiple of 64 is set in the middle of the next larger
 * one.
 */
export async function drawOnWhite(image: Uint8Array): Promise<Uint8Array> {
  const picture = await loadImage(image);
  const side = Math.ceil(Math.max(picture.width, picture.height) / SIZE) * SIZE;
  const canvas = createCanvas(side, side);
  const context = canvas.getContext('2d');
  context.fillStyle = '#ffffff';
  context.fillRect(0, 0, side, side);
  context.drawImage(picture, (side - picture.width) >> 1, (side - picture.height) >> 1);
  return boxReduce(context.getImageData(0, 0, side, side).data, side, 4, side / SIZE);
}

/** Mean over k x k squares, rounded half up. pixels [side, side, channels] with at least 3 channels. */
function boxReduce(pixels: ArrayLike<number>, side: number, channels: number, k: number): Uint8Array {
  const small = side / k;
  const out = new Uint8Array(small * small * 3);
  const area = k * k;
  for (let y = 0; y < small; y++) {
    for (let x = 0; x < small; x++) {
      for (let c = 0; c < 3; c++) {
        let sum = area >> 1;
        for (let dy = 0; dy < k; dy++) {
          const row = ((y * k + dy) * side + x * k) * channels + c;
          for (let dx = 0; dx < k; dx++) sum += pixels[row + dx * channels]!;
        }
        out[(y * small + x) * 3 + c] = Math.floor(sum / area);
      }
    }
  }
  return out;
}
