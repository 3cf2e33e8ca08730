// Columns that a batch holds, and how a shard has them.
import { EXIT, Failure } from '../../io/failure.ts';
import type { MdsColumn } from '../../io/mds/index.ts';
import { Q8_SUFFIX, q8Bytes } from '../../io/q8.ts';

/** A column that a batch holds, and how many bytes each sample has of it there. */
export interface ColumnSpec {
  readonly column: string;
  readonly bytes: number;
}

/** Where a shard has it: under its own name, or its halves in 8 bits under one that says so. */
export interface FoundColumn {
  readonly index: number;
  readonly name: string;
  /** Bytes of a sample in the shard. */
  readonly bytes: number;
  readonly packed: boolean;
}

/** Throws a Failure that lists the columns that there are where this one is not. */
export function columnIn(columns: readonly MdsColumn[], spec: ColumnSpec, address: string): FoundColumn {
  const { column: name, bytes } = spec;
  const packedName = name + Q8_SUFFIX;
  const packed = !columns.some((column) => column.name === name) && bytes % 2 === 0;
  const index = packed ? columns.findIndex((column) => column.name === packedName) : -1;
  if (index >= 0) return { index, name: packedName, bytes: q8Bytes(bytes / 2), packed };
  return { index: columnIndex(columns, name, address), name, bytes, packed: false };
}

/** Which column has a name; a Failure that lists those that there are. */
export function columnIndex(columns: readonly MdsColumn[], name: string, address: string): number {
  const index = columns.findIndex((column) => column.name === name);
  if (index >= 0) return index;
  const fix = `It has ${columns.map((column) => column.name).join(', ')}`;
  throw new Failure({ what: address, why: `has no column ${name}`, fix, code: EXIT.usage });
}
