// Records of a stream: one per picture, in order, as a line of JSON or as a MessagePack value. The keys are
// the same for ever (readers depend on them).

import { Packr } from 'msgpackr';
import { encodeRecord } from '../io/jsonl.ts';

/** What is said about one picture. */
export interface ImageRecord {
  readonly index: number;
  readonly prompt: string;
  readonly negative_prompt: string;
  readonly seed: number;
  /** Path of the PNG; null when it went into the stream. */
  readonly file: string | null;
  readonly width: number;
  readonly height: number;
  readonly steps: number;
  readonly cfg_scale: number;
  readonly sampler: string;
  readonly model: string;
  /** Seconds for this picture: those of its batch over the pictures in it. */
  readonly seconds: number;
  /** The prompt was longer than the model reads. */
  readonly truncated: boolean;
  /** Noise levels at which guidance acted; the key is left out where it acted at all. */
  readonly guidance_interval?: readonly [number, number];
  /** What drew the initial noise; the key is left out where it was our own generator. */
  readonly rng?: 'torch-cuda';
  /** How often each pixel was repeated; the key is left out where it was not. */
  readonly scale?: number;
  /** Files of the text tower and the autoencoder; left out where the model's own file holds all. */
  readonly clip?: string;
  readonly vae?: string;
  /** The picture was there already; the key is left out where it was made now. */
  readonly skipped?: true;
}

/** A line that gave no picture. */
export interface ErrorRecord {
  readonly index: number;
  readonly error: string;
}

const KEYS = [
  'index',
  'prompt',
  'negative_prompt',
  'seed',
  'file',
  'width',
  'height',
  'steps',
  'cfg_scale',
  'sampler',
  'model',
  'seconds',
  'truncated',
  'guidance_interval',
  'rng',
  'scale',
  'clip',
  'vae',
  'skipped',
] as const satisfies (keyof ImageRecord)[];

/** The record with exactly the keys of the format, in their order. */
function ordered(record: ImageRecord | ErrorRecord): Record<string, unknown> {
  if ('error' in record) return { index: record.index, error: record.error };
  return Object.fromEntries(KEYS.filter((key) => record[key] !== undefined).map((key) => [key, record[key]]));
}

/** A record as a line of JSON, newline included. */
export function jsonRecord(record: ImageRecord | ErrorRecord): string {
  return `${encodeRecord(ordered(record))}\n`;
}

// Plain maps rather than msgpackr's own records, so that every MessagePack reader understands the stream.
const packr = new Packr({ useRecords: false, encodeUndefinedAsNil: true });

/**
 * A record as one MessagePack map: the keys of the JSON record and `png`, the bytes of the picture's
 * file. Records follow each other without anything between. Other typed arrays may be given as extra
 * fields; they become bytes (little endian), because msgpackr would cut a Float32Array short.
 */
export function packRecord(
  record: ImageRecord | ErrorRecord,
  png?: Uint8Array,
  extra: Readonly<Record<string, ArrayBufferView>> = {},
): Uint8Array {
  const fields = ordered(record);
  for (const [name, value] of Object.entries({ ...extra, ...(png ? { png } : {}) }))
    fields[name] = bytesOf(value);
  return packr.pack(finite(fields));
}

function bytesOf({ buffer, byteOffset, byteLength }: ArrayBufferView): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}

/** Numbers that are not finite as texts, as in the JSON records. */
function finite(fields: Record<string, unknown>): Record<string, unknown> {
  for (const [name, value] of Object.entries(fields)) {
    if (typeof value === 'number' && !Number.isFinite(value)) fields[name] = String(value);
  }
  return fields;
}
