// Records as lines of JSON: how numbers are written, and the metrics file of a run, which holds each step
// once however often the run was killed and resumed.

import { closeSync, fsyncSync, ftruncateSync, openSync, readFileSync } from 'node:fs';
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
  return parse(path, readBytes(path)).map(({ record }) => record);
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
    const old = readBytes(path, true);
    const records = parse(path, old);
    const beyond = records.findIndex(({ record }) => (decodeNumber(record.step) ?? 0) > lastStep);
    const kept = beyond < 0 ? records : records.slice(0, beyond);
    const bytes = kept.at(-1)?.end ?? 0;
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

/**
 * All records up to a torn end. A broken line with whole ones after it is damage of another kind: a Failure.
 */
function parse(path: string, bytes: Buffer): Parsed[] {
  const records: Parsed[] = [];
  let broken: number | undefined;
  let line = 0;
  for (let begin = 0; begin < bytes.length; line++) {
    const newline = bytes.indexOf(10, begin);
    // A last line without its newline may be whole, but the writer was stopped before it could say so.
    if (newline < 0) break;
    const record = decodeRecord(bytes.toString('utf8', begin, newline));
    begin = newline + 1;
    if (!record) broken ??= line;
    else if (broken === undefined) records.push({ record, end: begin });
    else {
      throw new Failure({
        what: path,
        why: `line ${broken + 1} is not a JSON record`,
        fix: 'Mend or remove that line',
      });
    }
  }
  return records;
}

function readBytes(path: string, mayBeAbsent = false): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    if (mayBeAbsent && osCode(error) === 'ENOENT') return Buffer.alloc(0);
    throw osFailure(error, path, 'read');
  }
}
