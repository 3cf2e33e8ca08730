// Integer hashes that choose things: data order, caption forms, shapes. Training noise is Philox, elsewhere.

/** Spreads 32 bits (the `lowbias32` mixer of C. Wellons, bias 0.17); a permutation of 0..2^32-1. */
export function mix32(value: number): number {
  let h = value | 0;
  h = Math.imul(h ^ (h >>> 16), 0x7feb352d);
  h = Math.imul(h ^ (h >>> 15), 0x846ca68b);
  return (h ^ (h >>> 16)) >>> 0;
}

/** 32 bits from whole numbers 0..2^53-1 each; equal arguments, equal bits. */
export function hash3(a: number, b: number, c: number): number {
  let h = mix32(low(a) + 0x9e3779b9);
  h = mix32(h ^ high(a));
  h = mix32(h + low(b));
  h = mix32(h ^ (high(b) + 0x85ebca6b));
  h = mix32(h + low(c));
  return mix32(h ^ (high(c) + 0xc2b2ae35));
}

function low(value: number): number {
  return value >>> 0;
}

function high(value: number): number {
  return Math.floor(value / 0x1_0000_0000);
}
