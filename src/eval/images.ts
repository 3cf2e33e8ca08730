// Conformance of the pixel pipeline with a folder of pictures: decoding, then resize and crop from the
// reference's own decoded pixels, then both together.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { Failure } from '../io/failure.ts';
import { cropCorner, middleSquare, resizedSize, toSigned } from '../io/image/crop.ts';
import { type Decoded, readImage } from '../io/image/decode.ts';
import type { Rgb } from '../io/image/rgb.ts';
import { Safetensors } from '../io/safetensors.ts';
import { attempt, Group, type GroupResult, maxAbs } from './conformance.ts';
import { JsonObject } from './json-file.ts';

const EXPECTED = 'expected.json';
const TENSORS = 'expected.safetensors';
/** One level of 8 bits where the values lie in [-1, 1]. */
const LEVEL = 1 / 127.5;

/** Bounds of this part's golden README; PNG is lossless and has to come out exactly. */
const GROUPS = {
  sizes: ['sizes and corners', 0],
  exact: ['decoded, lossless', 0],
  lossy: ['decoded, lossy', 4],
  lossyMean: ['decoded, lossy, mean', 0.5],
  resized: ['resized', 2],
  resizedShare: ['resized, share above 1', 5e-4],
  floats: ['floats', 2 * LEVEL],
  scaled: ['bytes to floats', 1e-6],
  whole: ['end to end', 2],
  wholeLossy: ['end to end, lossy', 5],
  wholeLossyMean: ['end to end, lossy, mean', 0.5],
} as const;

type Groups = Readonly<Record<keyof typeof GROUPS, Group>>;

/** Every group of the folder; a picture that cannot be read fails a group of its own. */
export async function verifyImages(dir: string): Promise<readonly GroupResult[]> {
  const groups = Object.fromEntries(
    Object.entries(GROUPS).map(([key, [name, bound]]) => [key, new Group(name, bound)]),
  ) as Groups;
  const failures: GroupResult[] = [];
  for (const [file, expected] of JsonObject.read(join(dir, EXPECTED)).objects()) {
    const image = await imageOf(dir, file);
    failures.push(
      ...attempt(file, () => {
        if (image instanceof Error) throw image;
        using tensors = Safetensors.open(join(dir, TENSORS));
        checkPicture(groups, { file, image, expected, tensors });
        return [];
      }),
    );
  }
  return [...Object.values(groups).flatMap((group) => group.result() ?? []), ...failures];
}

interface Picture {
  readonly file: string;
  readonly image: Decoded;
  /** Its entry in expected.json. */
  readonly expected: JsonObject;
  readonly tensors: Safetensors;
}

/** The decoded file, or why it cannot be. */
async function imageOf(dir: string, file: string): Promise<Decoded | Error> {
  if (/[/\\]|^\.\.?$/.test(file)) return new Failure({ what: file, why: 'is no name of a file' });
  if (!existsSync(join(dir, file))) return new Failure({ what: file, why: 'is missing' });
  try {
    return await readImage(join(dir, file));
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error));
  }
}

function checkPicture(groups: Groups, { file, image, expected, tensors }: Picture): void {
  const { sizes } = groups;
  const stem = file.replace(/\.[^.]*$/, '');
  sizes.add(maxAbs([image.width, image.height], [expected.number('width'), expected.number('height')]), file);
  const turn = expected.get('exif_orientation');
  if (typeof turn === 'number') sizes.add(Math.abs(image.orientation - turn), `${file}: orientation`);

  const lossless = image.format === 'PNG';
  const name = `${stem}.decoded`;
  let source: Rgb | null = null;
  if (tensors.tensors.has(name)) {
    const { bytes, shape } = tensors.readTensor(name);
    const [height, width] = [shape[0] ?? 0, shape[1] ?? 0];
    if (bytes.length !== width * height * 3) throw new Failure({ what: name, why: 'is not uint8 [H, W, 3]' });
    source = { width, height, data: bytes };
    if (lossless) groups.exact.add(maxAbs(image.data, bytes), file);
    else {
      groups.lossy.add(maxAbs(image.data, bytes), file);
      groups.lossyMean.add(mean(image.data, bytes), file);
    }
  }

  for (const [key, step] of expected.object('steps').objects()) {
    const size = Number(key);
    if (!Number.isInteger(size) || size < 1 || size > 8192) {
      throw new Failure({ what: step.at(key), why: 'is no size' });
    }
    const place = `${file} at ${size}`;
    const resized = resizedSize(expected.number('width'), expected.number('height'), size);
    const corner = [cropCorner(resized.width, size), cropCorner(resized.height, size)];
    if (step.has('resized_wh')) {
      sizes.add(maxAbs([resized.width, resized.height], step.numbers('resized_wh')), place);
    }
    if (step.has('crop_left_top')) sizes.add(maxAbs(corner, step.numbers('crop_left_top')), place);
    const wholes = middleSquare(image, size);
    const squares = source && middleSquare(source, size);
    checkBytes(groups, { tensors, name: `${stem}.u8_${size}`, place, lossless, wholes, squares });
    checkFloats(groups, { tensors, stem, size, place, squares: squares ?? (lossless ? wholes : null) });
  }
}

interface Squares {
  readonly tensors: Safetensors;
  readonly place: string;
  /** From the reference's decoded pixels, where the set has them. */
  readonly squares: Uint8Array | null;
}

function checkBytes(
  groups: Groups,
  check: Squares & { readonly name: string; readonly lossless: boolean; readonly wholes: Uint8Array },
): void {
  const { tensors, name, place, lossless, wholes, squares } = check;
  if (!tensors.tensors.has(name)) return;
  const { bytes } = tensors.readTensor(name);
  if (squares) {
    groups.resized.add(maxAbs(squares, bytes), place);
    const above = bytes.reduce((sum, byte, i) => sum + (Math.abs(byte - squares[i]!) > 1 ? 1 : 0), 0);
    groups.resizedShare.add(above / bytes.length, place);
  }
  (lossless ? groups.whole : groups.wholeLossy).add(maxAbs(wholes, bytes), place);
  if (!lossless) groups.wholeLossyMean.add(mean(wholes, bytes), place);
}

function checkFloats(
  groups: Groups,
  check: Squares & { readonly stem: string; readonly size: number },
): void {
  const { tensors, stem, size, place, squares } = check;
  const [floats, bytes] = [`${stem}.f32_${size}`, `${stem}.u8_${size}`];
  if (!tensors.tensors.has(floats)) return;
  const expected = tensors.readFloat32(floats);
  if (squares) groups.floats.add(maxAbs(toSigned(squares), expected), place);
  if (tensors.tensors.has(bytes)) {
    groups.scaled.add(maxAbs(toSigned(tensors.readTensor(bytes).bytes), expected), place);
  }
}

/** Mean absolute difference; NaN for different lengths. */
function mean(a: Uint8Array, b: Uint8Array): number {
  if (a.length !== b.length || a.length === 0) return Number.NaN;
  return a.reduce((sum, value, i) => sum + Math.abs(value - b[i]!), 0) / a.length;
}
