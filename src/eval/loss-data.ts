// Data that a loss is taken on: pictures with captions as a source gives them, and shards of latents with
// the states of a text tower, as MicroDiT's own are.
import type { Source, SourceShape } from '../data/source.ts';
import { f16ToFloat32 } from '../io/dtype.ts';
import { Failure } from '../io/failure.ts';
import type { MdsSet } from '../io/mds/set.ts';
import type { MdsValue } from '../io/mds/values.ts';
import type { ModelConfig } from '../recipe/schema.ts';
import { ROWS_PER_WORD } from '../text/words.ts';
import type { LossData } from './loss.ts';

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

/** Latents of the model's size and caption latents out of shards: float16, stored as training takes them. */
export function latentData(
  set: MdsSet,
  { in_channels, input_size, caption_channels }: ModelConfig,
  name: string,
): LossData {
  const imageSize = in_channels * input_size * input_size;
  const column = `latents_${input_size * 8}`;
  const refuse = (why: string) =>
    new Failure({ what: name, why, fix: 'Give shards with captions and latents for this model' });
  const columns = set.index.shards[0]?.columns.map((one) => one.name) ?? [];
  for (const wanted of [column, 'caption_latents']) {
    if (!columns.includes(wanted)) throw refuse(`has no column ${wanted} (it has ${columns.join(', ')})`);
  }
  const half = (item: number, from: string) => bytesOf(set.value(item, from));
  const length = half(0, 'caption_latents').byteLength / 2 / caption_channels;
  if (!Number.isInteger(length)) throw refuse(`its captions are not of width ${caption_channels}`);
  const write = (item: number, from: string, count: number, out: Float32Array, offset: number) => {
    const bytes = half(item, from);
    if (bytes.byteLength !== 2 * count) {
      throw refuse(`sample ${item}: ${from} has ${bytes.byteLength / 2} numbers, not ${count}`);
    }
    const bits = new Uint16Array(bytes.slice().buffer); // aligned
    f16ToFloat32(bits, out.subarray(offset, offset + count));
  };
  return {
    ...{ name, count: set.count, captions: 'captions', length, imageSize },
    captionSize: length * caption_channels,
    image: (item, out, offset) => write(item, column, imageSize, out, offset),
    caption(item, out, offset) {
      if (out instanceof Float32Array) write(item, 'caption_latents', length * caption_channels, out, offset);
    },
  };
}

function bytesOf(value: MdsValue): Uint8Array {
  if (value instanceof Uint8Array) return value;
  if (typeof value === 'object' && value.kind === 'ndarray' && value.dtype === 'float16') return value.bytes;
  throw new Failure({ what: 'latents', why: 'are not stored as float16' });
}
