// Data that a loss is taken on: pictures with captions as a source or shards give them, and shards of latents
// with the states of a text tower, as MicroDiT's own are.
import type { LossData } from '../diffusion/loss-data.ts';
import { f16ToFloat32 } from '../io/dtype.ts';
import { Failure } from '../io/failure.ts';
import type { MdsSet } from '../io/mds/set.ts';
import type { MdsValue } from '../io/mds/values.ts';
import { fromQ8, Q8_SUFFIX, q8Count } from '../io/q8.ts';
import type { ModelConfig } from '../recipe/schema.ts';
import { idPairs } from '../text/clip.ts';
import { ROWS_PER_WORD } from '../text/words.ts';
import { rowsOfText, writeRows } from './caption-rows.ts';
import { pictureColumns, readPicture, SIGNED } from './shard-picture.ts';
import type { Source, SourceShape } from './source.ts';

/** Pictures of a source, in its order, each with the first wording of its caption. */
export function sourceData(source: Source, { size, length }: SourceShape, name = source.name): LossData {
  return {
    ...{ name, count: source.count, captions: 'words', length },
    imageSize: 3 * size * size,
    captionSize: length * ROWS_PER_WORD,
    image: (item, out, offset) => source.picture(item, out, offset),
    caption(item, out, offset) {
      if (out instanceof Int32Array) source.tokens(item, 0, out, offset);
    },
  };
}

/** Which samples of a set. */
export interface SetPart {
  readonly first?: number;
  readonly count?: number;
}

/** Pictures and captions out of shards, decoded here and kept as bytes. */
export async function pictureData(
  set: MdsSet,
  { size, length, rows }: SourceShape,
  name: string,
  { first = 0, count = set.count - first }: SetPart = {},
): Promise<LossData> {
  const area = 3 * size * size;
  const pixels = new Uint8Array(count * area);
  const captions: Int32Array[] = [];
  for (let item = 0; item < count; item++) {
    const { shard: number, sample } = set.index.locate(first + item);
    const shard = set.shard(number);
    const columns = pictureColumns(shard.columns, size, name);
    const { planes, caption } = await readPicture(shard, sample, columns, size);
    pixels.set(planes, item * area);
    captions.push(rowsOfText(caption, { length, rows }));
  }
  return {
    ...{ name, count, captions: 'words', length, imageSize: area },
    captionSize: length * ROWS_PER_WORD,
    image(item, out, offset) {
      for (let i = 0; i < area; i++) out[offset + i] = SIGNED[pixels[item * area + i]!]!;
    },
    caption(item, out, offset) {
      if (out instanceof Int32Array) writeRows(captions[item]!, length, out, offset);
    },
  };
}

/** Which samples of a set, and whether their captions are taken as token ids. */
export interface LatentPart extends SetPart {
  readonly tokens?: boolean;
}

/** Latents of the model's size and captions out of shards: float16 or ids, stored as training takes them. */
export function latentData(
  set: MdsSet,
  { in_channels, input_size, caption_channels }: ModelConfig,
  name: string,
  { first = 0, count = set.count - first, tokens = false }: LatentPart = {},
): LossData {
  const imageSize = in_channels * input_size * input_size;
  const column = `latents_${input_size * 8}`;
  const states = 'caption_latents';
  const refuse = (why: string) =>
    new Failure({ what: name, why, fix: 'Give shards with captions and latents for this model' });
  const columns = set.index.shards[0]?.columns.map((one) => one.name) ?? [];
  const packed = !tokens && !columns.includes(states) && columns.includes(states + Q8_SUFFIX);
  const text = tokens ? 'caption_tokens' : packed ? states + Q8_SUFFIX : states;
  for (const wanted of [column, text]) {
    if (!columns.includes(wanted)) throw refuse(`has no column ${wanted} (it has ${columns.join(', ')})`);
  }
  const half = (item: number, from: string) => {
    const bytes = bytesOf(set.value(first + item, from));
    if (!packed || from !== text) return bytes;
    if (q8Count(bytes.length) === null)
      throw refuse(`sample ${first + item}: ${text} is no blocks of 8 bits`);
    return new Uint8Array(fromQ8(bytes).buffer);
  };
  const length = half(0, text).byteLength / 2 / (tokens ? 1 : caption_channels);
  if (!Number.isInteger(length)) throw refuse(`its captions are not of width ${caption_channels}`);
  const bits = (item: number, from: string, numbers: number) => {
    const bytes = half(item, from);
    if (bytes.byteLength !== 2 * numbers) {
      throw refuse(`sample ${first + item}: ${from} has ${bytes.byteLength / 2} numbers, not ${numbers}`);
    }
    return new Uint16Array(bytes.slice().buffer); // aligned
  };
  const write = (item: number, from: string, numbers: number, out: Float32Array, offset: number) =>
    f16ToFloat32(bits(item, from, numbers), out.subarray(offset, offset + numbers));
  return {
    ...{ name, count, captions: tokens ? 'tokens' : 'captions', length, imageSize },
    captionSize: length * (tokens ? 2 : caption_channels),
    image: (item, out, offset) => write(item, column, imageSize, out, offset),
    caption(item, out, offset) {
      if (out instanceof Float32Array) write(item, text, length * caption_channels, out, offset);
      else out.set(idPairs(bits(item, text, length)), offset);
    },
  };
}

function bytesOf(value: MdsValue): Uint8Array {
  if (value instanceof Uint8Array) return value;
  if (typeof value === 'object' && value.kind === 'ndarray' && value.dtype === 'float16') return value.bytes;
  throw new Failure({ what: 'latents', why: 'are not stored as float16' });
}
