// CSV from a byte stream (RFC 4180): fields between commas, quoted ones may hold commas, line breaks and
// doubled quotes. A quote inside of a field that does not begin with one is a letter like any other.
import { type Line, readLines } from './lines.ts';

/** A row, or why it cannot be read; `index` counts rows from 0, the header's included. */
export type Row =
  | { readonly index: number; readonly fields: readonly string[] }
  | { readonly index: number; readonly error: string };

/** Of a row: each field and each line of a quoted one costs memory of its own. */
const MAX_FIELDS = 2 ** 14;
const MAX_LINES = 2 ** 16;
const manyFields = `the row has more than ${MAX_FIELDS} fields`;

export interface CsvOptions {
  /** Between fields; with tabs quotes are letters like any other, as in files of that kind. */
  readonly separator?: ',' | '\t';
  /**
   * Longest row, 2^20 (and 2^14 fields, 2^16 lines): a quote that never ends would take the rest of the
   * stream into memory.
   */
  readonly maxCharacters?: number;
}

/** The rows of a stream. One that is broken becomes an error in its place, and the rest goes on. */
export async function* readCsv(
  source: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  { separator = ',', maxCharacters = 2 ** 20 }: CsvOptions = {},
): AsyncGenerator<Row> {
  let index = 0;
  if (separator === '\t') {
    for await (const line of readLines(source, { maxBytes: maxCharacters })) {
      if ('error' in line) yield line;
      else {
        const fields = line.text.split('\t', MAX_FIELDS + 1);
        yield fields.length > MAX_FIELDS
          ? { index: line.index, error: manyFields }
          : { index: line.index, fields };
      }
    }
    return;
  }
  let row = new OpenRow(maxCharacters);
  for await (const line of readLines(source, { maxBytes: maxCharacters })) {
    const error = row.add(line);
    if (error === undefined && row.isOpen) continue;
    yield error === undefined ? { index, fields: row.fields } : { index, error };
    index++;
    row = new OpenRow(maxCharacters);
  }
  if (row.isOpen) yield { index, error: 'the quoted field at the end of the file has no closing quote' };
}

/** A row as far as its lines have been seen. */
class OpenRow {
  readonly fields: string[] = [];
  /** A quoted field goes on in the next line. */
  isOpen = false;
  private field = '';
  private length = 0;
  private lines = 0;

  constructor(private readonly maxCharacters: number) {}

  /** Takes the next line of the row; returns what is wrong with it. */
  add(line: Line): string | undefined {
    if ('error' in line) return line.error;
    const { text } = line;
    this.length += text.length + 1;
    if (this.length > this.maxCharacters) {
      return `the row is longer than ${this.maxCharacters} characters`;
    }
    if (++this.lines > MAX_LINES) return `the row has more than ${MAX_LINES} lines`;
    if (this.isOpen) this.field += '\n';
    for (let at = 0; ; ) {
      if (!this.isOpen && text[at] === '"') {
        this.isOpen = true;
        at++;
      }
      if (this.isOpen) {
        const end = text.indexOf('"', at);
        if (end < 0) {
          this.field += text.slice(at);
          return undefined;
        }
        this.field += text.slice(at, end);
        at = end + 1;
        if (text[at] === '"') {
          this.field += '"';
          at++;
          continue;
        }
        this.isOpen = false;
        if (at < text.length && text[at] !== ',') return `"${text[at]}" follows a closing quote`;
      }
      if (this.fields.length >= MAX_FIELDS) return manyFields;
      const comma = text.indexOf(',', at);
      this.fields.push(this.field + text.slice(at, comma < 0 ? text.length : comma));
      this.field = '';
      if (comma < 0) return undefined;
      at = comma + 1;
    }
  }
}
