// Fuzzing of readers: sound inputs, changed at random, must give an answer or a Failure; no other error, no
// crash, no call that does not come back, no memory beyond what the input has. Input n of a seed is always
// the same, so that a finding can be repeated.

import { Failure } from '../../src/io/failure.ts';

/** Whole numbers from 0 to below `below`, the same for a seed. */
export type Random = (below: number) => number;

/** A reader to be fuzzed: one row of the table in targets.ts. */
export interface FuzzTarget {
  readonly name: string;
  /** A sound input; called once for each of `variants`. */
  readonly make: (variant: number) => Uint8Array;
  readonly variants: number;
  /** Reads the input to its end, as a user's call would. A Failure is an answer. */
  readonly call: (input: Uint8Array, random: Random) => unknown;
  /** Pieces of the format that mutations put in: keywords, magic numbers. */
  readonly words?: readonly string[];
}

export interface Finding {
  readonly target: string;
  readonly seed: number;
  readonly n: number;
  readonly why: string;
}

export interface FuzzCounts {
  readonly inputs: number;
  /** Inputs that were read in spite of the change. */
  readonly read: number;
  /** The slowest call in milliseconds, and which one it was. */
  readonly slowest: number;
  readonly slowestInput: number;
  readonly findings: readonly Finding[];
}

/** Numbers that repeat: splitmix32 of a seed. */
export function randomOf(seed: number): Random {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x9e3779b9) >>> 0;
    let z = Math.imul(state ^ (state >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return Math.floor((((z ^ (z >>> 15)) >>> 0) / 2 ** 32) * below);
  };
}

/** Runs inputs first, first + 1, ... until `enough`; `beat` hears of each before it is tried. */
export async function fuzz(
  target: FuzzTarget,
  seed: number,
  enough: (n: number) => boolean,
  { first = 0, beat }: { first?: number; beat?: (n: number) => void } = {},
): Promise<FuzzCounts> {
  const sound = soundInputs(target);
  const findings: Finding[] = [];
  let [read, slowest, slowestInput, n] = [0, 0, 0, first];
  for (; !enough(n) && findings.length < 20; n++) {
    beat?.(n);
    const random = inputRandom(target, seed, n);
    const input = changed(sound, random, target.words ?? []);
    const started = performance.now();
    try {
      await target.call(input, random);
      read += 1;
    } catch (error) {
      if (!(error instanceof Failure)) findings.push({ target: target.name, seed, n, why: wordsOf(error) });
    }
    const spent = performance.now() - started;
    if (spent > slowest) [slowest, slowestInput] = [spent, n];
  }
  return { inputs: n - first, read, slowest, slowestInput, findings };
}

/** Input n of a seed, for a look at a finding. */
export function inputOf(target: FuzzTarget, seed: number, n: number): Uint8Array {
  const sound = soundInputs(target);
  return changed(sound, inputRandom(target, seed, n), target.words ?? []);
}

/** Made once: some are packed, which takes its time. */
function soundInputs(target: FuzzTarget): readonly Uint8Array[] {
  let inputs = made.get(target);
  if (!inputs) {
    // Copied: a Buffer's slices are views, and changes would go through to the sound input.
    inputs = Array.from({ length: target.variants }, (_, i) => new Uint8Array(target.make(i)));
    made.set(target, inputs);
  }
  return inputs;
}

const made = new WeakMap<FuzzTarget, readonly Uint8Array[]>();

function inputRandom(target: FuzzTarget, seed: number, n: number): Random {
  return randomOf(Number(Bun.hash(`${target.name} ${seed} ${n}`) & 0xffffffffn));
}

function wordsOf(error: unknown): string {
  return error instanceof Error ? `${error.name}: ${error.message}\n${error.stack ?? ''}` : String(error);
}

// Changes -------------------------------------------------------------------------------------------------

type Change = (bytes: Uint8Array, random: Random, other: Uint8Array, words: readonly string[]) => Uint8Array;

/** One of the sound inputs with one to six changes. */
export function changed(sound: readonly Uint8Array[], random: Random, words: readonly string[]): Uint8Array {
  let bytes: Uint8Array = sound[random(sound.length)]!.slice();
  for (let times = 1 + random(6); times > 0; times--) {
    bytes = CHANGES[random(CHANGES.length)]!(bytes, random, sound[random(sound.length)]!, words);
  }
  return bytes;
}

/** Numbers at which arithmetic goes wrong. */
const EDGES = [
  0, 1, 2, 7, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0xffff, 0x7fffffff, 0x80000000, 0xfffffff0, 0xffffffff,
];
const TEXT_NUMBERS = [
  '-1',
  '0',
  '1.5',
  '1e308',
  '9007199254740993',
  '4294967296',
  '99999999999999999999',
  'null',
  '""',
];

const place = (bytes: Uint8Array, random: Random) => random(bytes.length + 1);
/** Heads are where lies hurt most. */
const early = (bytes: Uint8Array, random: Random) =>
  random(Math.min(bytes.length, random(2) ? 64 : 4096) + 1);

function splice(bytes: Uint8Array, at: number, gone: number, put: Uint8Array): Uint8Array {
  return Buffer.concat([bytes.subarray(0, at), put, bytes.subarray(at + gone)]);
}

const CHANGES: readonly Change[] = [
  function bit(bytes, random) {
    const at = place(bytes, random);
    if (at < bytes.length) bytes[at]! ^= 1 << random(8);
    return bytes;
  },
  function byte(bytes, random) {
    const at = early(bytes, random);
    if (at < bytes.length) bytes[at] = random(256);
    return bytes;
  },
  function edge(bytes, random) {
    const width = [1, 2, 4, 8][random(4)]!;
    const at = random(2) ? early(bytes, random) : 4 * random(Math.floor(bytes.length / 4) + 1);
    if (at + width > bytes.length) return bytes;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    const value = random(4) ? EDGES[random(EDGES.length)]! : bytes.length + random(5) - 2;
    if (width === 1) view.setUint8(at, value & 0xff);
    else if (width === 2) view.setUint16(at, value & 0xffff, random(4) > 0);
    else if (width === 4) view.setUint32(at, value >>> 0, random(4) > 0);
    else view.setBigUint64(at, random(2) ? BigInt(value) : 2n ** BigInt(random(64)) - 1n, random(4) > 0);
    return bytes;
  },
  function step(bytes, random) {
    const at = early(bytes, random);
    if (at < bytes.length) bytes[at] = (bytes[at]! + random(9) - 4) & 0xff;
    return bytes;
  },
  function cut(bytes, random) {
    return bytes.slice(0, place(bytes, random));
  },
  function remove(bytes, random) {
    return splice(bytes, place(bytes, random), 1 + random(random(3) ? 8 : 200), new Uint8Array(0));
  },
  function repeat(bytes, random) {
    const at = place(bytes, random);
    return splice(bytes, at, 0, bytes.slice(at, at + 1 + random(random(3) ? 16 : 400)));
  },
  function join(bytes, random, other) {
    const from = random(other.length + 1);
    return splice(bytes, place(bytes, random), random(64), other.slice(from, from + random(256)));
  },
  function word(bytes, random, _other, words) {
    if (words.length === 0) return bytes;
    const put = new TextEncoder().encode(words[random(words.length)]!);
    return splice(bytes, place(bytes, random), random(2) ? put.length : 0, put);
  },
  function number(bytes, random) {
    // A number in text, wherever the next one stands.
    let at = place(bytes, random);
    while (at < bytes.length && !isDigit(bytes[at]!)) at++;
    let end = at;
    while (end < bytes.length && end < at + 20 && isDigit(bytes[end]!)) end++;
    const put = new TextEncoder().encode(TEXT_NUMBERS[random(TEXT_NUMBERS.length)]!);
    return at < bytes.length ? splice(bytes, at, end - at, put) : bytes;
  },
];

const isDigit = (byte: number) => byte >= 0x30 && byte <= 0x39;
