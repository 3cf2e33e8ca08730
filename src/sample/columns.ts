// Prompts from a column of tables: CSV or Parquet, told apart by their first bytes, from files or a stream.
import { createReadStream, fstatSync, statSync } from 'node:fs';
import { type Row, readCsv } from '../io/csv.ts';
import { Failure } from '../io/failure.ts';
import { osFailure } from '../io/oserror.ts';
import { isParquet, ParquetFile } from '../io/parquet.ts';
import { Source } from '../io/source.ts';
import { spool } from '../io/spool.ts';
import { didYouMean } from '../recipe/nearest.ts';
import { type BadPrompt, parsePrompt, type Prompt } from './prompts.ts';

type Bytes = AsyncIterable<Uint8Array>;

/** Standard input, as it stands in messages. */
const STDIN = 'standard input';

/**
 * The prompts of the tables at `paths`, one after another and counted through; '-' is standard input. A row
 * is a prompt, always plain text. Parquet needs its end first: on a pipe it is copied to a temporary file.
 */
export async function* readTables(
  paths: readonly string[],
  column: string,
): AsyncGenerator<Prompt | BadPrompt> {
  let count = 0;
  for (const path of paths) {
    for await (const item of await openTable(path, column)) {
      yield { ...item, index: count };
      count++;
    }
  }
}

async function openTable(path: string, column: string): Promise<AsyncIterable<Prompt | BadPrompt>> {
  const name = path === '-' ? STDIN : path;
  const source = regularFile(path);
  if (source) {
    const head = new Uint8Array(Math.min(4, source.size));
    source.fill(head, 0);
    if (isParquet(head)) return parquetColumn(await ParquetFile.open(source), column);
    if (path !== '-') source.close(); // its stream is read from the beginning
  }
  const stream = path === '-' ? Bun.stdin.stream() : readable(path);
  const { head, all } = await peek(stream);
  if (isParquet(head)) return parquetColumn(await ParquetFile.open(await spool(all, name)), column);
  return csvColumn(all, column);
}

/** The file as something to read by position; null where it is a pipe or the like. */
function regularFile(path: string): Source | null {
  try {
    if (path === '-') return fstatSync(0).isFile() ? Source.ofDescriptor(0, STDIN) : null;
    const stat = statSync(path);
    return stat.isFile() || stat.isDirectory() ? Source.open(path) : null;
  } catch (error) {
    throw osFailure(error, path === '-' ? STDIN : path, 'read');
  }
}

async function* readable(path: string): Bytes {
  try {
    yield* createReadStream(path);
  } catch (error) {
    throw osFailure(error, path, 'read');
  }
}

/** The first four bytes, if there are as many, and the whole stream. */
async function peek(stream: Bytes): Promise<{ head: Uint8Array; all: Bytes }> {
  const iterator = stream[Symbol.asyncIterator]();
  const chunks: Uint8Array[] = [];
  let length = 0;
  while (length < 4) {
    const { done, value } = await iterator.next();
    if (done) break;
    chunks.push(value.slice());
    length += value.length;
  }
  const all = (async function* () {
    yield* chunks.splice(0);
    for (let next = await iterator.next(); !next.done; next = await iterator.next()) yield next.value;
  })();
  return { head: Buffer.concat(chunks), all };
}

async function* parquetColumn(table: ParquetFile, column: string): AsyncGenerator<Prompt | BadPrompt> {
  using file = table;
  const found = file.columns.find(({ name }) => name === column);
  const names = file.columns.map(({ name }) => name);
  if (!found) throw noColumn(column, `${file.path} has the columns`, names);
  if (found.kind !== 'text' && found.kind !== 'bytes') {
    const texts = file.columns.filter(({ kind }) => kind === 'text').map(({ name }) => name);
    const fix = texts.length > 0 ? `Columns of texts: ${texts.join(', ')}` : 'It has no column of texts';
    throw new Failure({
      what: `--column ${column}`,
      why: `is no text but ${found.kind} in ${file.path}`,
      fix,
    });
  }
  let index = 0;
  for await (const row of file.rows([column])) {
    const value = row[column];
    const text = value instanceof Uint8Array ? utf8(value) : value;
    if (typeof text === 'string') yield parsePrompt({ index, text }, true);
    else yield { index, error: value instanceof Uint8Array ? 'the text is not UTF-8' : `${column} is null` };
    index++;
  }
}

function utf8(bytes: Uint8Array): string | null {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    return null;
  }
}

/** The prompts of a CSV with a header, from the column of that name. */
export async function* csvColumn(
  source: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  column: string,
): AsyncGenerator<Prompt | BadPrompt> {
  let place: number | undefined;
  for await (const row of readCsv(source)) {
    if (place === undefined) {
      place = placeOf(row, column);
      continue;
    }
    const index = row.index - 1; // the header is no prompt
    const text = 'error' in row ? undefined : row.fields[place];
    if ('error' in row) yield { index, error: row.error };
    else if (text !== undefined) yield parsePrompt({ index, text }, true);
    else if (row.fields.length === 1 && row.fields[0] === '') yield { index, error: 'the line is blank' };
    else
      yield {
        index,
        error: `the row has ${fieldsWord(row.fields.length)}, ${column} is column ${place + 1}`,
      };
  }
  if (place === undefined) throw headless(column, 'the CSV is empty');
}

function placeOf(header: Row, column: string): number {
  if ('error' in header) throw headless(column, `the header of the CSV cannot be read: ${header.error}`);
  const place = header.fields.indexOf(column);
  if (place >= 0) return place;
  throw noColumn(column, 'the CSV has the columns', header.fields);
}

function noColumn(column: string, has: string, names: readonly string[]): Failure {
  const why = `${has} ${names.join(', ').slice(0, 300)}`;
  const fix = didYouMean(column, names) ?? 'Name one of them';
  return new Failure({ what: `--column ${column}`, why, fix });
}

function headless(column: string, why: string): Failure {
  return new Failure({ what: `--column ${column}`, why, fix: 'The first row names the columns' });
}

function fieldsWord(n: number): string {
  return n === 1 ? '1 field' : `${n} fields`;
}
