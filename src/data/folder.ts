// Pictures and captions from a folder of the user's, each picture with its caption in a .txt of the same
// name. All are read at the start and kept as small RGB bytes.
import { readdirSync, readFileSync } from 'node:fs';
import { extname, join } from 'node:path';
import { EXIT, Failure } from '../io/failure.ts';
import { interleave, middleSquare } from '../io/image/crop.ts';
import { readImage } from '../io/image/decode.ts';
import { ImageFailure } from '../io/image/rgb.ts';
import { osCode, osFailure } from '../io/oserror.ts';

export interface FolderPictures {
  /** sha256 of names, captions and pictures; a trained model carries it. */
  readonly hash: string;
  readonly captions: readonly string[];
  /** RGB bytes [size, size, 3]. */
  picture(item: number): Uint8Array;
}

const ENDINGS = ['.png', '.jpg', '.jpeg', '.webp', '.gif', '.bmp', '.avif'];

/**
 * Reads a folder in the order of the names. Each picture becomes its middle square at size x size as
 * src/io/image has it: alpha dropped, bicubic. Pictures without a caption, or that cannot be decoded, are
 * left out and named to `warn`; a Failure when none is left.
 */
export async function readFolder(
  path: string,
  size: number,
  warn: (text: string) => void,
): Promise<FolderPictures> {
  const names = picturesIn(path);
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
    const rgb = await square(join(path, name), size);
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
      why: `has no picture that can be trained on (${names.length} files of pictures)`,
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

/** The middle square of a picture file at size x size, RGB; null when it is none that can be used. */
async function square(path: string, size: number): Promise<Uint8Array | null> {
  try {
    return interleave(middleSquare(await readImage(path), size), size * size);
  } catch (error) {
    if (error instanceof ImageFailure) return null;
    throw error;
  }
}

/** Some names, and how many more there are. */
function listed(names: readonly string[]): string {
  const shown = names.slice(0, 5).join(', ');
  return names.length > 5 ? `${shown} and ${names.length - 5} more` : shown;
}
