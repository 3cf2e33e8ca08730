// What is looked at in a Parquet file before hyparquet reads it, since that believes every count: runs grow
// arrays past their pages, negative sizes go back in the file for ever, long numbers take the square of their
// length. Layouts: Apache Parquet's format documents (Encodings.md, parquet.thrift), Thrift's compact
// protocol.
import type { ColumnMetaData, Compressors, FileMetaData, PageHeader, RowGroup, SchemaTree } from 'hyparquet';
import { parquetHeader } from 'hyparquet/src/column.js';
import { decompressPage } from 'hyparquet/src/datapage.js';
import { deltaBinaryUnpack } from 'hyparquet/src/delta.js';
import { readRleBitPackedHybrid } from 'hyparquet/src/encoding.js';
import {
  getMaxDefinitionLevel,
  getMaxRepetitionLevel,
  getTreePath,
  isFlatColumn,
} from 'hyparquet/src/schema.js';

/** Values of a column in a row group, which is held as a whole; writers put some hundred thousand in one. */
const MAX_VALUES = 2 ** 24;
/** Bytes of a page once unpacked, and of all pages of a column in a row group. */
const MAX_PAGE_BYTES = 2 ** 30;
const MAX_CHUNK_BYTES = 2 ** 31;
/** Bytes that one packed byte can become; the others are unpacked no further than a page says. */
const MOST_PACKED: Readonly<Record<string, number>> = { UNCOMPRESSED: 1, SNAPPY: 32, LZ4: 256, LZ4_RAW: 256 };
/** Deepest nesting of the schema and of the footer. */
const MAX_DEPTH = 64;
/** Longest name or statistic in a footer; notes of writers may be longer. */
const MAX_NAME_BYTES = 2 ** 13;
const NOTES_FIELD = 5;
/** Some of what nobody needs here unpacks without bounds. */
const REFUSED_TYPES = ['VARIANT', 'GEOMETRY', 'GEOGRAPHY'];

// Thrift
// -----------------------------------------------------------------------------------------------------

/** Numbers of variable length and other bytes, one after the other. */
class Numbers {
  constructor(
    protected readonly view: DataView,
    public at: number,
    readonly end: number,
  ) {}

  /** The lower bits are enough: what is larger than 2^32 is refused wherever it counts. */
  varint(): number {
    let value = 0;
    for (let digits = 0; digits < 10; digits++) {
      const byte = this.byte();
      value += (byte & 127) * 2 ** (7 * digits);
      if (byte < 128) return value;
    }
    throw new Error('a number has no end');
  }

  byte(): number {
    return this.view.getUint8(this.take(1));
  }

  /** Place of the next bytes. */
  take(bytes: number): number {
    const { at } = this;
    if (bytes > this.end - at) throw new Error('it is cut off');
    this.at += bytes;
    return at;
  }
}

/** Goes over a structure of Thrift's compact protocol without making anything of it. */
class Walk extends Numbers {
  struct(depth: number, binaryBytes: (field: number) => number): void {
    if (depth > MAX_DEPTH) throw new Error(`its footer is nested deeper than ${MAX_DEPTH}`);
    for (let field = 0; ; ) {
      const byte = this.byte();
      if ((byte & 15) === 0) return;
      if (byte >> 4) field += byte >> 4;
      else {
        field = -1; // written out
        this.varint();
      }
      const longest = binaryBytes(field);
      this.element(byte & 15, depth, longest, false);
    }
  }

  private element(type: number, depth: number, longest: number, inList: boolean): void {
    if (type === 1 || type === 2) this.take(inList ? 1 : 0);
    else if (type === 3) this.take(1);
    else if (type >= 4 && type <= 6) this.varint();
    else if (type === 7) this.take(8);
    else if (type === 8) {
      const length = this.varint();
      if (length > longest) throw new Error(`a text of ${length} bytes in its footer is too long`);
      this.take(length);
    } else if (type === 9) this.list(depth, longest);
    else if (type === 12) this.struct(depth + 1, () => longest);
    else throw new Error(`type ${type} is not known in its footer`);
  }

  private list(depth: number, longest: number): void {
    const head = this.byte();
    const size = head >> 4 === 15 ? this.varint() : head >> 4;
    if (size > this.end - this.at)
      throw new Error(`a list of ${size} in its footer is longer than the footer`);
    if (depth >= MAX_DEPTH) throw new Error(`its footer is nested deeper than ${MAX_DEPTH}`);
    for (let i = 0; i < size; i++) this.element(head & 15, depth + 1, longest, true);
  }
}

/** An Error unless the metadata in a footer (without its length and mark) are whole and of bounded depth. */
export function checkFooter(footer: Uint8Array): void {
  const walk = new Walk(viewOf(footer), 0, footer.length);
  walk.struct(0, (field) => (field === NOTES_FIELD ? footer.length : MAX_NAME_BYTES));
}

/** An Error unless row groups have bounded counts and the schema is a tree of bounded depth. */
export function checkMetadata({ schema, row_groups }: FileMetaData): void {
  const open: number[] = [];
  for (const { num_children: children = 0 } of schema) {
    while (open.at(-1) === 0) open.pop();
    if (open.length > 0) open[open.length - 1]!--;
    if (open.length >= MAX_DEPTH) throw new Error(`its columns are nested deeper than ${MAX_DEPTH}`);
    if (children < 0 || children > schema.length) throw new Error(`a column has ${children} parts`);
    open.push(children);
  }
  if (open.some((left) => left > 0)) throw new Error('its list of columns is cut off');
  for (const { num_rows: rows } of row_groups) {
    if (!(rows >= 0n && rows <= MAX_VALUES)) {
      throw new Error(`a row group of ${rows} rows; up to ${MAX_VALUES} are read at a time`);
    }
  }
}

// Column chunks
// -----------------------------------------------------------------------------------------------

/** Bytes of a file from begin to end. */
type Slice = (begin: number, end: number) => ArrayBuffer;

/** An Error unless the pages of the columns of these names are what they say they are. */
export function checkGroup(
  group: RowGroup,
  schema: SchemaTree,
  columns: readonly string[],
  slice: Slice,
  compressors: Compressors,
): void {
  const rows = Number(group.num_rows);
  for (const { meta_data: meta } of group.columns) {
    if (!meta) throw new Error('a column has no description');
    if (!columns.includes(meta.path_in_schema[0] ?? '')) continue;
    const begin = Number(meta.dictionary_page_offset || meta.data_page_offset);
    const buffer = slice(begin, begin + Number(meta.total_compressed_size));
    try {
      new Chunk(meta, getTreePath(schema, meta.path_in_schema), rows, compressors).check(
        new DataView(buffer),
      );
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      throw new Error(`column ${meta.path_in_schema.join('.')}: ${why}`);
    }
  }
}

class Chunk {
  private readonly repetition: number;
  private readonly definition: number;
  private readonly typeBytes: number;
  private readonly flat: boolean;

  constructor(
    private readonly meta: ColumnMetaData,
    path: SchemaTree[],
    private readonly rows: number,
    private readonly compressors: Compressors,
  ) {
    const { element } = path.at(-1)!;
    this.repetition = getMaxRepetitionLevel(path);
    this.definition = getMaxDefinitionLevel(path);
    this.typeBytes = element.type_length ?? 8;
    this.flat = isFlatColumn(path);
    const refused = path.find((part) => REFUSED_TYPES.includes(part.element.logical_type?.type ?? ''));
    if (refused) throw new Error(`its type ${refused.element.logical_type!.type} is not read`);
    const bytes = element.type === 'BYTE_ARRAY' || this.typeBytes > 32;
    if (element.converted_type === 'DECIMAL' && bytes) throw new Error('such decimal numbers are not read');
    if (element.type === 'FIXED_LEN_BYTE_ARRAY' && !(this.typeBytes > 0)) {
      throw new Error(`its values have ${this.typeBytes} bytes`);
    }
    if (element.type !== meta.type) throw new Error(`is ${meta.type} and ${element.type}`);
  }

  check(view: DataView): void {
    const { num_values: said } = this.meta;
    let [values, bytes, dictionaries] = [0, 0, 0];
    const reader = { view, offset: 0 };
    while (reader.offset < view.byteLength - 1) {
      new Walk(view, reader.offset, view.byteLength).struct(0, () => MAX_CHUNK_BYTES);
      const header = parquetHeader(reader);
      const { compressed_page_size: packed, uncompressed_page_size: whole } = header;
      if (!(packed >= 0 && packed <= view.byteLength - reader.offset))
        throw new Error(`a page of ${packed} bytes`);
      bytes += whole;
      if (!(whole >= 0 && whole <= MAX_PAGE_BYTES && bytes <= MAX_CHUNK_BYTES)) {
        throw new Error(`a page of ${whole} bytes, ${bytes} in all: more than is read`);
      }
      if (whole > 64 + packed * (MOST_PACKED[this.meta.codec] ?? 2 ** 20)) {
        throw new Error(`a page of ${whole} bytes in ${packed}`);
      }
      const page = new Uint8Array(view.buffer, reader.offset, packed);
      reader.offset += packed;
      if (header.type === 'DICTIONARY_PAGE') {
        const count = header.dictionary_page_header?.num_values ?? -1;
        if (dictionaries++ > 0 || values > 0) throw new Error('a dictionary where there should be none');
        if (!(count >= 0 && count <= MAX_VALUES)) throw new Error(`a dictionary of ${count} values`);
        continue;
      }
      const count = header.data_page_header?.num_values ?? header.data_page_header_v2?.num_values ?? -1;
      values += count;
      if (!(count >= 0 && values <= MAX_VALUES)) throw new Error(`a page of ${count} values`);
      if (header.type === 'DATA_PAGE') this.checkPage(page, header);
      else if (header.type === 'DATA_PAGE_V2') this.checkPage2(page, header);
      else throw new Error(`a page of type ${header.type}`);
    }
    if (BigInt(values) !== said) throw new Error(`it has ${values} values where it says ${said}`);
    if (this.flat && values !== this.rows) throw new Error(`${values} values in ${this.rows} rows`);
  }

  private checkPage(
    packed: Uint8Array,
    { uncompressed_page_size: size, data_page_header: head }: PageHeader,
  ): void {
    const { num_values: count, encoding } = head!;
    const page = decompressPage(packed, size, this.meta.codec, this.compressors);
    const view = viewOf(page);
    let at = 0;
    if (this.repetition > 0) at = this.levels(view, at, this.repetition, count).end;
    let nulls = 0;
    if (this.definition > 0) {
      const levels = this.levels(view, at, this.definition, count);
      at = levels.end;
      nulls = levels.below;
    }
    this.checkValues(view, at, count - nulls, encoding, false);
  }

  private checkPage2(
    packed: Uint8Array,
    { uncompressed_page_size: size, data_page_header_v2: head }: PageHeader,
  ): void {
    const { num_values: count, num_nulls: nulls, encoding, is_compressed } = head!;
    const { repetition_levels_byte_length: first, definition_levels_byte_length: second } = head!;
    const levels = first + second;
    if (!(first >= 0 && second >= 0 && levels <= packed.length && levels <= size)) {
      throw new Error(`levels of ${first} and ${second} bytes`);
    }
    if (!(nulls >= 0 && nulls <= count)) throw new Error(`${nulls} of ${count} values are none`);
    const view = viewOf(packed);
    if (this.repetition > 0) checkRuns(view, 0, first, bitWidth(this.repetition), count);
    if (this.definition > 0) checkRuns(view, first, levels, bitWidth(this.definition), count);
    const rest = packed.subarray(levels);
    const page =
      is_compressed === false ? rest : decompressPage(rest, size - levels, this.meta.codec, this.compressors);
    this.checkValues(viewOf(page), 0, count - nulls, encoding, true);
  }

  /** Levels with their length before them; `below`: how many are not the highest. */
  private levels(view: DataView, at: number, most: number, count: number): { end: number; below: number } {
    const end = at + 4 + (at + 4 <= view.byteLength ? view.getUint32(at, true) : Number.POSITIVE_INFINITY);
    if (!(end <= view.byteLength)) throw new Error('levels that reach beyond their page');
    checkRuns(view, at + 4, end, bitWidth(most), count);
    const levels = new Uint8Array(count);
    readRleBitPackedHybrid({ view, offset: at + 4 }, bitWidth(most), levels, end - at - 4);
    return { end, below: levels.reduce((sum, level) => sum + (level === most ? 0 : 1), 0) };
  }

  /** `second`: of a page of version 2. */
  private checkValues(view: DataView, at: number, count: number, encoding: string, second: boolean): void {
    const end = view.byteLength;
    if (encoding === 'RLE' && (second || this.meta.type === 'BOOLEAN')) {
      checkRuns(view, at + 4, end, 1, count);
    } else if (/^(RLE|(PLAIN|RLE)_DICTIONARY)$/.test(encoding)) {
      const width = at < end ? view.getUint8(at) : 0;
      if (width > 32) throw new Error(`numbers of ${width} bits`);
      if (width > 0 || second) checkRuns(view, at + 1, end, width, count);
    } else if (encoding === 'BYTE_STREAM_SPLIT') {
      const bytes = count * (this.meta.type === 'FIXED_LEN_BYTE_ARRAY' ? this.typeBytes : 4);
      if (bytes > end - at) throw new Error(`${count} values in ${end - at} bytes`);
    } else if (encoding.startsWith('DELTA_') && count > 0) {
      const first = this.deltas(view, at, count);
      if (encoding !== 'DELTA_BYTE_ARRAY') return;
      const second = this.deltas(view, first.end, count);
      // Each value begins with a part of the one before, so that they can outgrow the page.
      const all = first.sum() + second.sum();
      if (all > MAX_PAGE_BYTES) throw new Error(`values of ${all} bytes in a page`);
    }
  }

  /** Goes over DELTA_BINARY_PACKED numbers. */
  private deltas(view: DataView, at: number, count: number): { end: number; sum: () => number } {
    const runs = new Numbers(view, at, view.byteLength);
    const [block, parts] = [runs.varint(), runs.varint()];
    const each = block / parts;
    if (!(block <= 2 ** 20 && Number.isInteger(each / 8) && each > 0)) {
      throw new Error(`differences in blocks of ${block} with ${parts} parts`);
    }
    runs.varint();
    runs.varint();
    for (let done = 1; done < count; ) {
      runs.varint();
      const widths = runs.take(parts);
      for (let part = 0; part < parts && done < count; part++, done += each) {
        const width = view.getUint8(widths + part);
        if (width > 64) throw new Error(`differences of ${width} bits`);
        // The last part may be cut short; the reader finds that out.
        runs.at = Math.min(view.byteLength, runs.at + (each * width) / 8);
      }
    }
    const sum = () => {
      const numbers = new Int32Array(count);
      deltaBinaryUnpack({ view, offset: at }, count, numbers);
      return numbers.reduce((total, number) => total + number, 0);
    };
    return { end: runs.at, sum };
  }
}

/** An Error where runs of equal or packed numbers (RLE_BIT_PACKED_HYBRID) are longer than what they fill. */
function checkRuns(view: DataView, at: number, end: number, width: number, count: number): void {
  const runs = new Numbers(view, at, end);
  for (let seen = 0; seen < count; ) {
    const head = runs.varint();
    const groups = Math.floor(head / 2);
    const values = head % 2 === 1 ? 8 * groups : groups;
    // Packed runs are filled up to whole groups, by some writers to several.
    if (values > count - seen + 512)
      throw new Error(`a run of ${values} values where ${count - seen} are left`);
    // The last packed run may be cut short; the reader finds that out.
    runs.at = Math.min(end, runs.at + (head % 2 === 1 ? groups * width : (width + 7) >> 3));
    seen += values;
  }
}

const bitWidth = (most: number) => 32 - Math.clz32(most);

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}
