// Latents as colours without decoding them: the decoder's own answer to flat latents, taken as a straight
// line.
import type { Pixels } from '../io/png.ts';
import { unscaleLatents } from '../vae/posterior.ts';
import type { Vae } from './autoencoder.ts';
import { pixelsOf } from './pixels.ts';
import type { Extent } from './size.ts';

/** Picture n of latents [N, C, height, width], a pixel for each; null where a number is not finite. */
export type LatentColors = (latents: ArrayLike<number>, n: number, size: Extent) => Pixels | null;

/** Side of the flat latents that are decoded: their middle is far enough from the border. */
const SIDE = 8;

/**
 * colour = base + sum of channel c times slope[c]. The decoder is asked 2 C + 1 times, with small flat
 * latents: all zeros, and each channel alone at +1 and -1; slopes are half the differences of the mean
 * colours in the middle. Texture is lost, and what is far from linear; the finished picture comes from the
 * decoder itself.
 */
export function latentColors(vae: Vae): LatentColors {
  const { latent_channels: C } = vae.config;
  const answer = (channel: number, value: number): number[] => {
    const flat = new Float64Array(C * SIDE * SIDE);
    if (channel >= 0) flat.fill(value, channel * SIDE * SIDE, (channel + 1) * SIDE * SIDE);
    const size = { height: SIDE, width: SIDE };
    const planes = vae.decode(unscaleLatents(vae.config, flat, SIDE * SIDE), size);
    const side = Math.sqrt(planes.length / 3);
    const middle = { from: Math.floor(side / 4), to: Math.ceil((3 * side) / 4) };
    return [0, 1, 2].map((plane) => {
      let sum = 0;
      for (let y = middle.from; y < middle.to; y++) {
        for (let x = middle.from; x < middle.to; x++) sum += planes[(plane * side + y) * side + x]!;
      }
      return sum / (middle.to - middle.from) ** 2;
    });
  };
  const base = answer(-1, 0);
  const slopes = Array.from({ length: C }, (_, c) => {
    const [up, down] = [answer(c, 1), answer(c, -1)];
    return up.map((value, plane) => (value - down[plane]!) / 2);
  });
  return (latents, n, { width, height }) => {
    const area = width * height;
    const planes = new Float64Array(3 * area);
    for (let plane = 0; plane < 3; plane++) {
      for (let i = 0; i < area; i++) {
        let value = base[plane]!;
        for (let c = 0; c < C; c++) value += slopes[c]![plane]! * latents[(n * C + c) * area + i]!;
        planes[plane * area + i] = value;
      }
    }
    return pixelsOf(planes, 0, width, height);
  };
}
