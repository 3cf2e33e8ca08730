// Records as lines of JSON: how numbers are written, and the metrics file of a run, which holds each step
// once however often the run was killed and resumed.

import { closeSync, fsyncSync, ftruncateSync, openSync, readSync } from 'node:fs';
import { Failure } from './failure.ts';
import { Writer } from './lines.ts';
import { osCode, osFailure } from './oserror.ts';

export type JsonRecord = Readonly<Record<string, unknown>>;

/**
 * One line of JSON without the newline. NaN and infinities, which JSON lacks, become "NaN", "Infinity",
 * "-Infinity".
 */
export function encodeRecord(record: JsonRecord): string {
  return JSON.stringify(record, (_, value) =>
    typeof value === 'number' && !Number.isFinite(value) ? String(value) : value,
  );
}

/** The number that `encodeRecord` wrote, or undefined if `value` is none. */
export function decodeNumber(value: unknown): number | undefined {
  if (typeof value === 'number') return value;
  if (value === 'NaN') return Number.NaN;
  if (value === 'Infinity') return Number.POSITIVE_INFINITY;
  return value === '-Infinity' ? Number.NEGATIVE_INFINITY : undefined;
}

/** Parses one line; undefined unless it is a JSON object. */
export function decodeRecord(line: string): JsonRecord | undefined {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? { ...value } : undefined;
  } catch {
    return undefined;
  }
}

/** The records of a file; a torn end (the program was killed in a write) is passed over. */
export function readRecords(path: string): JsonRecord[] {
  return [...eachRecord(path)];
}

/** The same one after the other, of a file that may be larger than memory. */
export function* eachRecord(path: string): Generator<JsonRecord> {
  for (const { record } of parse(path)) yield record;
}

/** The `metrics.jsonl` of a run, open for appending. */
export class MetricsLog implements Disposable {
  private constructor(
    readonly path: string,
    private readonly fd: number,
    private bytes: number,
  ) {}

  /**
   * Opens the file, or makes it. Records of steps after `lastStep` are cut off (they will be done again), and
   * so is a torn last line. Records without a `step` stand or fall with their neighbours.
   */
  static open(path: string, lastStep: number): MetricsLog {
    let bytes = 0;
    let beyond = false;
    for (const { record, end } of parse(path, true)) {
      beyond ||= (decodeNumber(record.step) ?? 0) > lastStep;
      if (!beyond) bytes = end;
    }
    let fd: number | undefined;
    try {
      fd = openSync(path, 'a', 0o666);
      ftruncateSync(fd, bytes);
      return new MetricsLog(path, fd, bytes);
    } catch (error) {
      if (fd !== undefined) closeSync(fd);
      throw osFailure(error, path, 'write');
    }
  }

  /** Adds a record; if the disk is full, a Failure, and the file ends with the record before. */
  append(record: JsonRecord): void {
    const line = new TextEncoder().encode(`${encodeRecord(record)}\n`);
    try {
      new Writer(this.fd, this.path).write(line);
      this.bytes += line.length;
    } catch (error) {
      ftruncateSync(this.fd, this.bytes);
      throw error;
    }
  }

  /** Makes sure that everything is on the disk; called where a checkpoint is written. */
  sync(): void {
    try {
      fsyncSync(this.fd);
    } catch (error) {
      throw osFailure(error, this.path, 'write');
    }
  }

  close(): void {
    closeSync(this.fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

interface Parsed {
  readonly record: JsonRecord;
  /** The byte after its newline. */
  readonly end: number;
}

const PIECE = 2 ** 20;
const MAX_LINE = 2 ** 24;

/**
 * All records up to a torn end. A broken line with whole ones after it is damage of another kind: a Failure.
 */
function* parse(path: string, mayBeAbsent = false): Generator<Parsed> {
  let broken: number | undefined;
  let line = 0;
  let end = 0;
  for (const bytes of linesOf(path, mayBeAbsent)) {
    const record = decodeRecord(bytes.toString('utf8'));
    end += bytes.length;
    line++;
    if (!record) broken ??= line;
    else if (broken === undefined) yield { record, end };
    else {
      throw new Failure({
        what: path,
        why: `line ${broken} is not a JSON record`,
        fix: 'Mend or remove that line',
      });
    }
  }
}

/**
 * Lines with their ends. A last one without may be whole, but the writer was stopped before it could say so.
 */
function* linesOf(path: string, mayBeAbsent: boolean): Generator<Buffer> {
  let fd: number | undefined;
  try {
    fd = openSync(path, 'r');
    let held = Buffer.alloc(0);
    for (;;) {
      const piece = Buffer.alloc(PIECE);
      const got = readSync(fd, piece);
      if (got === 0) return;
      const from = held.length;
      held = Buffer.concat([held, piece.subarray(0, got)]);
      let begin = 0;
      for (let end = held.indexOf(10, from); end >= 0; end = held.indexOf(10, begin)) {
        yield held.subarray(begin, end + 1);
        begin = end + 1;
      }
      held = held.subarray(begin);
      if (held.length > MAX_LINE)
        throw new Failure({ what: path, why: `a line is longer than ${MAX_LINE} bytes` });
    }
  } catch (error) {
    if (mayBeAbsent && osCode(error) === 'ENOENT') return;
    throw osFailure(error, path, 'read');
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}
