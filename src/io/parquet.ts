// Parquet files: columns by name, rows as they come, from a file by ranges or from memory. What is held at a
// time is one row group of the columns asked for.
import { brotliDecompressSync, gunzipSync, zstdDecompressSync } from 'node:zlib';
import {
  type Compressors,
  type FileMetaData,
  parquetMetadata,
  parquetReadObjects,
  parquetSchema,
  type RowGroup,
} from 'hyparquet';
import { compressors } from 'hyparquet-compressors';
import { Failure } from './failure.ts';
import { checkFooter, checkGroup, checkMetadata } from './parquet_check.ts';
import { Source } from './source.ts';

/** A column at the top of the schema. */
export interface ParquetColumn {
  readonly name: string;
  /** text, bytes, group (lists, structures), or the type in Parquet's terms: INT64, DOUBLE, ... */
  readonly kind: string;
}

/**
 * Values by the names of their columns: texts as strings, bytes as Uint8Array, 64-bit integers as bigint,
 * structures as objects and lists as arrays of such; null (or undefined) where there is none.
 */
export type ParquetRow = Readonly<Record<string, unknown>>;

const MAGIC = new TextEncoder().encode('PAR1');

/** Whether bytes begin as a Parquet file does. */
export function isParquet(head: Uint8Array): boolean {
  return head.length >= MAGIC.length && MAGIC.every((byte, i) => head[i] === byte);
}

/** A Parquet file whose footer has been read; `using` closes it. */
export class ParquetFile implements Disposable {
  private constructor(
    private readonly source: Source,
    private readonly metadata: FileMetaData,
    readonly columns: readonly ParquetColumn[],
  ) {}

  /** Opens a file, or takes one that is open (or in memory: `Source.ofBytes`). A broken one is a Failure. */
  static async open(from: string | Source): Promise<ParquetFile> {
    const source = typeof from === 'string' ? Source.open(from) : from;
    try {
      const metadata = await told(source, async () => {
        const footer = footerOf(source);
        checkFooter(footer.subarray(0, -TAIL_BYTES));
        const metadata = parquetMetadata(footer, { geoparquet: false });
        checkMetadata(metadata);
        return metadata;
      });
      const columns = await told(source, async () =>
        parquetSchema(metadata).children.map(({ element, children }) => {
          if (typeof element.name !== 'string') throw new Error('a column has no name');
          if (children.length > 0) return { name: element.name, kind: 'group' };
          const text = element.converted_type === 'UTF8' || element.logical_type?.type === 'STRING';
          const bytes = /BYTE_ARRAY$/.test(element.type ?? '') && !element.converted_type;
          return { name: element.name, kind: text ? 'text' : bytes ? 'bytes' : (element.type ?? 'unknown') };
        }),
      );
      return new ParquetFile(source, metadata, columns);
    } catch (error) {
      source.close();
      throw error;
    }
  }

  get path(): string {
    return this.source.path;
  }

  get rowCount(): number {
    return this.metadata.row_groups.reduce((sum, group) => sum + Number(group.num_rows), 0);
  }

  /** Rows from `from` on, with the columns of these names, which must be there. */
  async *rows(columns: readonly string[], from = 0): AsyncGenerator<ParquetRow> {
    for (const name of columns) {
      if (this.columns.some((column) => column.name === name)) continue;
      const has = this.columns.map((column) => column.name).join(', ');
      throw new Failure({ what: this.path, why: `has no column ${name}`, fix: `It has ${has}` });
    }
    let rowStart = 0;
    for (const group of this.metadata.row_groups) {
      const rows = Number(group.num_rows);
      if (rowStart + rows > from) yield* await this.read(columns, group, Math.max(0, from - rowStart));
      rowStart += rows;
    }
  }

  close(): void {
    this.source.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** Rows of one row group. */
  private read(columns: readonly string[], group: RowGroup, rowStart: number): Promise<ParquetRow[]> {
    const { source, metadata } = this;
    const file = bufferOf(source);
    return told(source, async () => {
      checkGroup(group, parquetSchema(metadata), columns, file.slice, CODECS);
      return parquetReadObjects({
        file,
        metadata: { ...metadata, row_groups: [group] },
        columns: [...columns],
        rowStart,
        rowEnd: Number(group.num_rows),
        compressors: CODECS,
        geoparquet: false,
        utf8: false, // bytes without a type stay bytes
      });
    });
  }
}

/** Bun's own where it has them: faster, and they stop at the length that the page names. */
const CODECS: Compressors = {
  ...compressors,
  GZIP: (bytes, length) => gunzipSync(bytes, { maxOutputLength: Math.max(1, length) }),
  BROTLI: (bytes, length) => brotliDecompressSync(bytes, { maxOutputLength: Math.max(1, length) }),
  ZSTD: (bytes, length) => zstdDecompressSync(bytes, { maxOutputLength: Math.max(1, length) }),
};

function bufferOf(source: Source) {
  return {
    byteLength: source.size,
    slice(start: number, end = source.size): ArrayBuffer {
      if (!(start >= 0 && start <= end && end <= source.size))
        throw new RangeError('it points beyond its end');
      const bytes = new Uint8Array(end - start);
      source.fill(bytes, start);
      return bytes.buffer;
    },
  };
}

/** The length of the metadata and the mark at the end of a file. */
const TAIL_BYTES = 8;
/** Longest metadata; those of files with a million column chunks are shorter. */
const MAX_FOOTER = 2 ** 28;

/** The metadata with their length and the mark. */
function footerOf(source: Source): Uint8Array {
  const bytes = (length: number) => {
    const part = new Uint8Array(length);
    source.fill(part, source.size - length);
    return part;
  };
  if (source.size < MAGIC.length + TAIL_BYTES) throw new Error('it is too short');
  const tail = bytes(TAIL_BYTES);
  if (!isParquet(tail.subarray(4))) throw new Error('its end is not that of a Parquet file');
  const length = new DataView(tail.buffer).getUint32(0, true);
  const fits = length <= Math.min(MAX_FOOTER, source.size - MAGIC.length - TAIL_BYTES);
  if (!fits) throw new Error(`its metadata would have ${length} bytes`);
  return bytes(length + TAIL_BYTES);
}

/** What the reader says of a broken file, as a Failure that names it. */
async function told<T>(source: Source, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof Failure) throw error;
    const why = error instanceof Error ? error.message.replace(/^parquet /, '') : String(error);
    const fix = 'Copy or download it again';
    throw new Failure({ what: source.path, why: `cannot be read as Parquet: ${why}`, fix });
  }
}
