// Pictures and captions from a folder of the user's: PNG, JPEG and WebP files, each with its caption in a
// .txt
// of the same name. All are read at the start and kept as small RGB bytes.
import { readdirSync, readFileSync } from 'node:fs';
import { extname, join } from 'node:path';
import { EXIT, Failure } from '../io/failure.ts';
import { withCanvas } from '../io/figure/canvas.ts';
import { osCode, osFailure } from '../io/oserror.ts';

export interface FolderPictures {
  /** sha256 of names, captions and pictures; a trained model carries it. */
  readonly hash: string;
  readonly captions: readonly string[];
  /** RGB bytes [size, size, 3] on white. */
  picture(item: number): Uint8Array;
}

const ENDINGS = ['.png', '.jpg', '.jpeg', '.webp'];

/**
 * Reads a folder in the order of the names. Each picture is laid on white, cut to its middle square and
 * reduced
 * to size x size by the mean of the area that each pixel covers. Pictures without a caption, or that cannot
 * be
 * decoded, are left out and named to `warn`; a Failure when none is left.
 */
export async function readFolder(
  path: string,
  size: number,
  warn: (text: string) => void,
): Promise<FolderPictures> {
  const names = picturesIn(path);
  const canvas = await withCanvas(() => import('@napi-rs/canvas'));
  const hash = new Bun.CryptoHasher('sha256');
  const captions: string[] = [];
  const pictures: Uint8Array[] = [];
  const bare: string[] = [];
  const broken: string[] = [];
  for (const name of names) {
    const caption = captionBeside(join(path, name));
    if (caption === '') {
      bare.push(name);
      continue;
    }
    const rgb = await middleSquare(canvas, readBytes(join(path, name)), size);
    if (!rgb) {
      broken.push(name);
      continue;
    }
    hash.update(`${name}\0${caption}\0`).update(rgb);
    captions.push(caption);
    pictures.push(rgb);
  }
  if (bare.length > 0) warn(`${path}: ${bare.length} left out without a caption (${listed(bare)})`);
  if (broken.length > 0)
    warn(`${path}: ${broken.length} left out that cannot be decoded (${listed(broken)})`);
  if (pictures.length === 0) {
    throw new Failure({
      what: path,
      why: `has no picture that can be trained on (${names.length} PNG, JPEG or WebP files)`,
      fix: 'Put a caption beside each picture: photo.jpg and photo.txt',
      code: EXIT.usage,
    });
  }
  return { hash: hash.digest('hex'), captions, picture: (item) => pictures[item]! };
}

/** Names of the pictures of a folder, sorted by their bytes so that every machine has the same order. */
function picturesIn(path: string): string[] {
  try {
    const names = readdirSync(path).filter((name) => ENDINGS.includes(extname(name).toLowerCase()));
    return names.sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
  } catch (error) {
    throw osFailure(error, path, 'read');
  }
}

/** The words of NAME.txt beside NAME.png; '' when there are none. */
function captionBeside(picture: string): string {
  const path = `${picture.slice(0, -extname(picture).length)}.txt`;
  try {
    return readFileSync(path, 'utf8')
      .replace(/^\uFEFF/, '')
      .replace(/\s+/g, ' ')
      .trim();
  } catch (error) {
    if (osCode(error) === 'ENOENT') return '';
    throw osFailure(error, path, 'read');
  }
}

/** The middle square of a picture file at size x size on white, RGB; null when it cannot be decoded. */
async function middleSquare(
  { createCanvas, loadImage }: typeof import('@napi-rs/canvas'),
  bytes: Buffer,
  size: number,
): Promise<Uint8Array | null> {
  try {
    const image = await loadImage(bytes);
    const side = Math.min(image.width, image.height);
    const context = createCanvas(side, side).getContext('2d');
    context.fillStyle = '#ffffff';
    context.fillRect(0, 0, side, side);
    context.drawImage(image, -((image.width - side) >> 1), -((image.height - side) >> 1));
    return areaReduce(context.getImageData(0, 0, side, side).data, side, size);
  } catch {
    return null; // whatever the decoder says: the file is named to the user as one that cannot be used
  }
}

function readBytes(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw osFailure(error, path, 'read');
  }
}

/** Mean over the area of each new pixel: RGBA [side, side, 4] -> RGB [size, size, 3], rounded half up. */
function areaReduce(pixels: ArrayLike<number>, side: number, size: number): Uint8Array {
  const out = new Uint8Array(size * size * 3);
  const spans = Array.from({ length: size }, (_, i) => spanOf(i, side, size));
  for (const [y, rows] of spans.entries()) {
    for (const [x, columns] of spans.entries()) {
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        for (const row of rows) {
          for (const column of columns) {
            sum += row.share * column.share * pixels[(row.at * side + column.at) * 4 + c]!;
          }
        }
        out[(y * size + x) * 3 + c] = Math.floor(sum + 0.5);
      }
    }
  }
  return out;
}

/** Old pixels below new pixel i along one side, and the share of it that each covers. */
function spanOf(i: number, side: number, size: number): { at: number; share: number }[] {
  const from = (i * side) / size;
  const to = ((i + 1) * side) / size;
  const first = Math.floor(from);
  const count = Math.min(side, Math.ceil(to)) - first;
  return Array.from({ length: count }, (_, k) => {
    const at = first + k;
    return { at, share: (Math.min(to, at + 1) - Math.max(from, at)) / (to - from) };
  });
}

/** Some names, and how many more there are. */
function listed(names: readonly string[]): string {
  const shown = names.slice(0, 5).join(', ');
  return names.length > 5 ? `${shown} and ${names.length - 5} more` : shown;
}
