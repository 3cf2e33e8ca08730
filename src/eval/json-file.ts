// JSON files of golden sets: every value is checked where it is read, and a Failure names file and key.
import { readFileSync } from 'node:fs';
import { Failure } from '../io/failure.ts';
import { osFailure } from '../io/oserror.ts';

/** One object of a JSON file, and where it stands. */
export class JsonObject {
  private constructor(
    private readonly where: string,
    private readonly values: Readonly<Record<string, unknown>>,
  ) {}

  /** Reads a file that holds one object. */
  static read(path: string): JsonObject {
    return JsonObject.parse(path, readText(path));
  }

  /** Reads a file of one object a line, and names the line in messages. */
  static readLines(path: string): JsonObject[] {
    const lines = readText(path).split('\n');
    return lines.flatMap((line, i) => (line.trim() ? [JsonObject.parse(`${path}:${i + 1}`, line)] : []));
  }

  private static parse(where: string, text: string): JsonObject {
    try {
      return JsonObject.of(where, JSON.parse(text));
    } catch (error) {
      if (error instanceof Failure) throw error;
      throw new Failure({
        what: where,
        why: `broken JSON: ${error instanceof Error ? error.message : error}`,
      });
    }
  }

  private static of(where: string, value: unknown): JsonObject {
    if (!isObject(value)) throw new Failure({ what: where, why: 'must be a JSON object' });
    return new JsonObject(where, value);
  }

  get keys(): readonly string[] {
    return Object.keys(this.values);
  }

  has(key: string): boolean {
    return Object.hasOwn(this.values, key);
  }

  /** The value as it is; undefined where there is none. */
  get(key: string): unknown {
    return this.has(key) ? this.values[key] : undefined;
  }

  object(key: string): JsonObject {
    return JsonObject.of(this.at(key), this.get(key));
  }

  /** The object under a key, or null where there is none. */
  maybe(key: string): JsonObject | null {
    return this.has(key) ? this.object(key) : null;
  }

  /** The objects under all keys. */
  objects(): [string, JsonObject][] {
    return this.keys.map((key) => [key, this.object(key)]);
  }

  number(key: string, otherwise?: number): number {
    if (otherwise !== undefined && !this.has(key)) return otherwise;
    const value = this.get(key);
    return typeof value === 'number' ? value : this.refuse(key, 'a number');
  }

  text(key: string): string {
    const value = this.get(key);
    return typeof value === 'string' ? value : this.refuse(key, 'a text');
  }

  /** A list of numbers; an empty one where there is none. */
  numbers(key: string): readonly number[] {
    const value = this.get(key) ?? [];
    return isList(value, 'number') ? value : this.refuse(key, 'a list of numbers');
  }

  /** A list of texts; an empty one where there is none. */
  texts(key: string): readonly string[] {
    const value = this.get(key) ?? [];
    return isList(value, 'string') ? value : this.refuse(key, 'a list of texts');
  }

  /** Where a key stands, for messages. */
  at(key: string): string {
    return `${this.where}: ${key}`;
  }

  private refuse(key: string, what: string): never {
    throw new Failure({ what: this.at(key), why: this.has(key) ? `must be ${what}` : 'is missing' });
  }
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw osFailure(error, path, 'read');
  }
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isList(value: unknown, kind: 'number'): value is readonly number[];
function isList(value: unknown, kind: 'string'): value is readonly string[];
function isList(value: unknown, kind: 'number' | 'string'): boolean {
  return Array.isArray(value) && value.every((v) => typeof v === kind);
}
