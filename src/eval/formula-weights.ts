// Weights by a formula, in place of ones that cannot be had: every value follows from a tensor's name and its
// place (the golden README of part `fid` gives the formula). FNV-1a and splitmix64 in pairs of 32 bits, as
// arithmetic on bigint would take minutes.
import type { InceptionFile } from '../inception/fold.ts';

/** A 64-bit integer in two halves of 32 bits, unsigned, changed in place: millions of them are made. */
export class Word64 {
  constructor(
    public high: number,
    public low: number,
  ) {}

  /** Of the product the lower 64 bits remain. */
  multiply(bh: number, bl: number): void {
    const { high: ah, low: al } = this;
    const [a1, a0, b1, b0] = [al >>> 16, al & 0xffff, bl >>> 16, bl & 0xffff];
    const low = a0 * b0;
    const middle = a1 * b0 + (low >>> 16);
    const carry = a0 * b1 + (middle & 0xffff);
    const high = a1 * b1 + Math.floor(middle / 65536) + Math.floor(carry / 65536);
    this.high = (high + Math.imul(ah, bl) + Math.imul(al, bh)) >>> 0;
    this.low = (((carry & 0xffff) << 16) | (low & 0xffff)) >>> 0;
  }

  add(bh: number, bl: number): void {
    const low = this.low + bl;
    this.high = (this.high + bh + (low > 0xffffffff ? 1 : 0)) >>> 0;
    this.low = low >>> 0;
  }

  /** x xor (x >> n), n from 1 to 31. */
  fold(n: number): void {
    const { high, low } = this;
    this.high = (high ^ (high >>> n)) >>> 0;
    this.low = (low ^ ((low >>> n) | (high << (32 - n)))) >>> 0;
  }
}

export function fnv1a64(bytes: Uint8Array): Word64 {
  const h = new Word64(0xcbf29ce4, 0x84222325);
  for (const b of bytes) {
    h.low = (h.low ^ b) >>> 0;
    h.multiply(0x100, 0x1b3);
  }
  return h;
}

/** Replaces x by its hash. */
export function splitmix64(x: Word64): void {
  x.add(0x9e3779b9, 0x7f4a7c15);
  x.fold(30);
  x.multiply(0xbf58476d, 0x1ce4e5b9);
  x.fold(27);
  x.multiply(0x94d049bb, 0x133111eb);
  x.fold(31);
}

/** u(name, i) for i < count: in [0, 1), 53 bits. */
export function uniforms(salt: string, name: string, count: number): Float64Array {
  const seed = fnv1a64(new TextEncoder().encode(salt + name));
  const word = new Word64(0, 0);
  const values = new Float64Array(count);
  for (let i = 0; i < count; i++) {
    word.high = seed.high;
    word.low = seed.low;
    word.add(0, i);
    splitmix64(word);
    values[i] = (word.high * 2 ** 21 + (word.low >>> 11)) * 2 ** -53;
  }
  return values;
}

export interface FormulaOptions {
  readonly salt: string;
  /** Factor of convolutions and linear layers. */
  readonly gain: number;
}

/** The values of one tensor of a network with batch norms. */
export function formulaTensor(
  name: string,
  shape: readonly number[],
  { salt, gain }: FormulaOptions,
): Float32Array {
  const count = shape.reduce((a, b) => a * b, 1);
  if (name.endsWith('.num_batches_tracked')) return new Float32Array(count);
  const u = uniforms(salt, name, count);
  if (shape.length >= 2) {
    const scale = gain * Math.sqrt((3 * shape[0]!) / count);
    return Float32Array.from(u, (x) => (2 * x - 1) * scale);
  }
  if (name.endsWith('.bn.weight')) return Float32Array.from(u, (x) => 1 + 0.1 * (2 * x - 1));
  if (name.endsWith('.running_var')) return Float32Array.from(u, (x) => 1 + 0.5 * x);
  return Float32Array.from(u, (x) => 0.1 * (2 * x - 1));
}

/** A file of such weights, made as it is read. */
export function formulaFile(
  shapes: ReadonlyMap<string, readonly number[]>,
  options: FormulaOptions,
): InceptionFile {
  return {
    path: 'weights by formula',
    tensors: new Map([...shapes].map(([name, shape]) => [name, { shape }])),
    readFloat64: (name) => Float64Array.from(formulaTensor(name, shapes.get(name) ?? [], options)),
  };
}
