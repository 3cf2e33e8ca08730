// What a column of a set holds, in numbers: sizes, ranges, values that are no numbers, lengths of captions.
// Fed with one value after another; memory does not grow with them.

import { isKind } from '../io/mds/encodings.ts';
import type { MdsColumn } from '../io/mds/index.ts';
import type { MdsDtype, MdsValue } from '../io/mds/values.ts';
import { fromQ8 } from '../io/q8.ts';
import { CLIP_CONTEXT } from '../text/bpe.ts';
import { clipTokenizer } from '../text/vocabulary.ts';
import { guessShape, type ShapeGuess } from './latent-shape.ts';

interface Range {
  readonly min: number;
  readonly mean: number;
  readonly max: number;
}

/** Of numbers: NaN and infinities are counted and kept out of the rest. */
export interface NumberStats {
  readonly type: string;
  readonly count: number;
  readonly min: number | null;
  readonly mean: number | null;
  readonly std: number | null;
  readonly max: number | null;
  readonly nan: number;
  readonly infinite: number;
}

export interface TextStats {
  readonly empty: number;
  readonly characters: Range;
  /** Of CLIP, start and end included; a caption of more than `context` is cut in training. */
  readonly tokens: Range;
  readonly context: number;
  /** Share of the captions that are cut. */
  readonly truncated: number;
}

export interface ColumnStats {
  readonly name: string;
  readonly encoding: string;
  /** Values that were looked at. */
  readonly count: number;
  /** Of a value in its shard. */
  readonly bytes: Range;
  readonly numbers?: NumberStats;
  readonly text?: TextStats;
  /** Of arrays: each shape and how often; beyond the commonest ones, `others`. */
  readonly shapes?: Readonly<Record<string, number>>;
  /** Of `bytes` columns: what they are taken for. */
  readonly guess?: ShapeGuess;
  /** Of pictures: modes or formats, and sizes where they are known without decoding. */
  readonly kinds?: Readonly<Record<string, number>>;
}

/** Shapes, kinds: more of them than this are counted together. */
const MOST_KEYS = 12;

class Spread {
  private count = 0;
  private sum = 0;
  private least = Number.POSITIVE_INFINITY;
  private most = Number.NEGATIVE_INFINITY;

  add(value: number): void {
    this.count += 1;
    this.sum += value;
    this.least = Math.min(this.least, value);
    this.most = Math.max(this.most, value);
  }

  range(): Range {
    return this.count === 0
      ? { min: 0, mean: 0, max: 0 }
      : { min: this.least, mean: this.sum / this.count, max: this.most };
  }
}

/** Mean and deviation by Welford's rule, a list at a time. */
class Moments {
  private count = 0;
  private finite = 0;
  private mean = 0;
  private squares = 0;
  private least = Number.POSITIVE_INFINITY;
  private most = Number.NEGATIVE_INFINITY;
  private nan = 0;
  private infinite = 0;

  add(values: ArrayLike<number>): void {
    this.count += values.length;
    for (let i = 0; i < values.length; i++) {
      const value = values[i]!;
      if (Number.isNaN(value)) this.nan += 1;
      else if (!Number.isFinite(value)) this.infinite += 1;
      else this.enter(value);
    }
  }

  private enter(value: number): void {
    this.finite += 1;
    const off = value - this.mean;
    this.mean += off / this.finite;
    this.squares += off * (value - this.mean);
    if (value < this.least) this.least = value;
    if (value > this.most) this.most = value;
  }

  stats(type: string): NumberStats {
    const { count, nan, infinite, finite } = this;
    const known = <T>(value: T) => (finite === 0 ? null : value);
    return {
      ...{ type, count, min: known(this.least), mean: known(this.mean) },
      ...{ std: known(Math.sqrt(this.squares / Math.max(1, finite))), max: known(this.most), nan, infinite },
    };
  }
}

/** Collects one column. */
export class ColumnCounter {
  private readonly bytes = new Spread();
  private readonly moments = new Moments();
  private readonly characters = new Spread();
  private readonly tokens = new Spread();
  private readonly shapes = new Map<string, number>();
  private readonly kinds = new Map<string, number>();
  private readonly sizes = new Map<number, number>();
  private type = '';
  private count = 0;
  private empty = 0;
  private cut = 0;

  constructor(private readonly column: MdsColumn) {}

  /** `raw`: the bytes that `value` was decoded from. */
  add(value: MdsValue, raw: Uint8Array): void {
    this.count += 1;
    this.bytes.add(raw.length);
    if (this.column.encoding === 'str' && typeof value === 'string') this.addText(value);
    else if (typeof value === 'number') this.addNumbers(this.column.encoding, [value]);
    else if (typeof value === 'bigint') this.addNumbers(this.column.encoding, [Number(value)]);
    else if (value instanceof Uint8Array) this.addBytes(value);
    else if (isKind(value, 'ndarray')) {
      bump(this.shapes, `${value.dtype} [${value.shape.join(', ')}]`);
      this.addNumbers(value.dtype, numbersOf(value.bytes, value.dtype));
    } else if (isKind(value, 'pixels')) bump(this.kinds, `${value.mode} ${value.width} x ${value.height}`);
    else if (isKind(value, 'image')) bump(this.kinds, `${value.format}${sideOfPng(value.bytes)}`);
  }

  stats(): ColumnStats {
    const { name, encoding } = this.column;
    const guess = this.guess();
    return {
      ...{ name, encoding, count: this.count, bytes: this.bytes.range() },
      ...(guess ? { guess } : {}),
      ...(this.type && (encoding !== 'bytes' || guess) ? { numbers: this.moments.stats(this.type) } : {}),
      ...(encoding === 'str' ? { text: this.text() } : {}),
      ...(this.shapes.size > 0 ? { shapes: Object.fromEntries(this.shapes) } : {}),
      ...(this.kinds.size > 0 ? { kinds: Object.fromEntries(this.kinds) } : {}),
    };
  }

  /** Only where all values have one size. */
  private guess(): ShapeGuess | null {
    const [[bytes] = [0], ...others] = [...this.sizes];
    return others.length > 0 ? null : guessShape(this.column.name, bytes);
  }

  private text(): TextStats {
    return {
      empty: this.empty,
      characters: this.characters.range(),
      tokens: this.tokens.range(),
      context: CLIP_CONTEXT,
      truncated: this.count === 0 ? 0 : this.cut / this.count,
    };
  }

  private addText(text: string): void {
    const { count } = clipTokenizer().encode(text);
    this.characters.add([...text].length);
    this.tokens.add(count);
    if (text.trim() === '') this.empty += 1;
    if (count > CLIP_CONTEXT) this.cut += 1;
  }

  /** Taken for numbers of the guessed type until their sizes say otherwise. */
  private addBytes(bytes: Uint8Array): void {
    if (this.sizes.size < 2) this.sizes.set(bytes.length, (this.sizes.get(bytes.length) ?? 0) + 1);
    const guess = this.sizes.size === 1 && guessShape(this.column.name, bytes.length);
    if (!guess) return;
    const { dtype } = guess;
    const numbers = dtype === 'q8' ? new Float16Array(fromQ8(bytes).buffer) : numbersOf(bytes, dtype);
    this.addNumbers(dtype, numbers);
  }

  private addNumbers(type: string, values: ArrayLike<number>): void {
    this.type = this.type === '' || this.type === type ? type : 'several types';
    this.moments.add(values);
  }
}

/** ` 32 x 32` for a PNG, whose header says it at a fixed place; '' for others. */
function sideOfPng(bytes: Uint8Array): string {
  const isPng = bytes[0] === 0x89 && bytes.length >= 24;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  return isPng ? ` ${view.getUint32(16)} x ${view.getUint32(20)}` : '';
}

function bump(map: Map<string, number>, key: string): void {
  const known = map.has(key) || map.size < MOST_KEYS ? key : 'others';
  map.set(known, (map.get(known) ?? 0) + 1);
}

/** Bytes, which need not be aligned, as numbers; integers of 64 bits are rounded. */
export function numbersOf(bytes: Uint8Array, dtype: MdsDtype): ArrayLike<number> {
  const { buffer } = Uint8Array.from(bytes);
  switch (dtype) {
    case 'uint8':
      return new Uint8Array(buffer);
    case 'int8':
      return new Int8Array(buffer);
    case 'uint16':
      return new Uint16Array(buffer);
    case 'int16':
      return new Int16Array(buffer);
    case 'float16':
      return new Float16Array(buffer);
    case 'uint32':
      return new Uint32Array(buffer);
    case 'int32':
      return new Int32Array(buffer);
    case 'float32':
      return new Float32Array(buffer);
    case 'float64':
      return new Float64Array(buffer);
    case 'uint64':
      return Float64Array.from(new BigUint64Array(buffer), Number);
    case 'int64':
      return Float64Array.from(new BigInt64Array(buffer), Number);
  }
}
