// Shards and indexes made by hand, byte by byte, so that the writer cannot share a mistake with the reader.

import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { bytes, u32 } from './torch-case.ts';

export interface Column {
  readonly name: string;
  readonly encoding: string;
  readonly size: number | null;
}

/** One shard's samples: of each the encoded bytes of its columns. */
export type Samples = readonly (readonly Uint8Array[])[];

export const text = (string: string) => new TextEncoder().encode(string);

export const TWO: readonly Column[] = [
  { name: 'caption', encoding: 'str', size: null },
  { name: 'latents_256', encoding: 'bytes', size: null },
  { name: 'seen', encoding: 'uint8', size: 1 },
];

/** `count` samples of `TWO`, all different. */
export function twoSamples(count: number): Samples {
  return Array.from({ length: count }, (_, i) => [
    text(`caption ${i}`),
    Uint8Array.from({ length: 8 + i }, (_v, k) => 16 * i + k),
    Uint8Array.of(i),
  ]);
}

/** What stands in the head of a shard about its columns. */
export function configOf(columns: readonly Column[]): Record<string, unknown> {
  return {
    column_encodings: columns.map((c) => c.encoding),
    column_names: columns.map((c) => c.name),
    column_sizes: columns.map((c) => c.size),
    compression: null,
    format: 'mds',
    hashes: [],
    size_limit: 67108864,
    version: 2,
  };
}

/** The bytes of a shard. */
export function shardOf(columns: readonly Column[], samples: Samples): Uint8Array<ArrayBuffer> {
  const config = text(JSON.stringify(configOf(columns)));
  const bodies = samples.map((values) => {
    const sizes = values.filter((_, i) => columns[i]!.size === null).map((value) => u32(value.length));
    return bytes(...sizes, ...values);
  });
  let at = 4 + 4 * (samples.length + 1) + config.length;
  const offsets = [at, ...bodies.map((body) => (at += body.length))];
  return bytes(u32(samples.length), ...offsets.map(u32), config, ...bodies);
}

export interface ShardEntry {
  raw_data: { basename: string; bytes: number; hashes: Record<string, string> };
  zip_data: { basename: string; bytes: number; hashes: Record<string, string> } | null;
  compression: string | null;
  samples: number;
  [key: string]: unknown;
}

/** A shard's entry in an index. */
export function entryOf(
  columns: readonly Column[],
  samples: number,
  bytesOfShard: number,
  basename = 'shard.00000.mds',
): ShardEntry {
  const raw = { basename, bytes: bytesOfShard, hashes: {} };
  return { ...configOf(columns), raw_data: raw, zip_data: null, compression: null, samples };
}

/** Writes files of a set below `folder`; an index is given as an object or as text. */
export function writeSet(
  folder: string,
  index: unknown,
  files: Readonly<Record<string, Uint8Array>>,
): string {
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, name)), { recursive: true });
    writeFileSync(join(folder, name), content);
  }
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'index.json'), typeof index === 'string' ? index : JSON.stringify(index));
  return folder;
}
