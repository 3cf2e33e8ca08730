// The kinds of value a recipe key can have: constructors for the schema's rows, and the check of one value.
// 1. constructors (int, real, ...)   2. check of a value from a file   3. reading of a value from text

import { EXIT, Failure } from '../io/failure.ts';

export type Kind = 'int' | 'real' | 'bool' | 'text' | 'choice' | 'reals' | 'texts' | 'interval';

/** One row of the schema. `default: undefined` means the key may be absent. */
export interface Field<V = unknown> {
  readonly kind: Kind;
  readonly default: V;
  readonly meaning: string;
  readonly unit?: string;
  readonly min?: number;
  readonly max?: number;
  readonly options?: readonly string[];
  /** Dotted key whose value is taken when this one is not given; both must be equal in the end. */
  readonly follows?: string;
}

interface Range {
  readonly unit?: string;
  readonly min?: number;
  readonly max?: number;
  readonly follows?: string;
}

/** The largest whole number that a seed or a counter may be: 2^53 - 1. */
export const LARGEST = Number.MAX_SAFE_INTEGER;

export const int = <V extends number | undefined>(value: V, range: Range, meaning: string) =>
  field<V extends undefined ? number | undefined : number>('int', value as never, range, meaning);

export const real = <V extends number | undefined>(value: V, range: Range, meaning: string) =>
  field<V extends undefined ? number | undefined : number>('real', value as never, range, meaning);

export const bool = (value: boolean, meaning: string) => field('bool', value, {}, meaning);

export const text = <V extends string | undefined>(value: V, meaning: string) =>
  field<V extends undefined ? string | undefined : string>('text', value as never, {}, meaning);

export const choice = <const O extends readonly string[], V extends O[number] | undefined>(
  value: V,
  options: O,
  meaning: string,
): Field<V extends undefined ? O[number] | undefined : O[number]> => ({
  kind: 'choice',
  default: value as never,
  options,
  meaning,
});

export const reals = <V extends readonly number[] | undefined>(value: V, range: Range, meaning: string) =>
  field<V extends undefined ? readonly number[] | undefined : readonly number[]>(
    'reals',
    value as never,
    range,
    meaning,
  );

export const texts = <V extends readonly string[] | undefined>(value: V, meaning: string) =>
  field<V extends undefined ? readonly string[] | undefined : readonly string[]>(
    'texts',
    value as never,
    {},
    meaning,
  );

/** Steps as a whole number, or a time such as "90s", "10m", "2h"; 0 = never. */
export const interval = <V extends number | string | undefined>(value: V, meaning: string) =>
  field<V extends undefined ? number | string | undefined : number | string>(
    'interval',
    value as never,
    {},
    meaning,
  );

function field<V>(kind: Kind, value: V, range: Range, meaning: string): Field<V> {
  return { kind, default: value, meaning, ...range };
}

/** What a value of this field has to be, in words: "a whole number from 1 to 64". */
export function expected(row: Field): string {
  const range = rangeWords(row);
  switch (row.kind) {
    case 'int':
      return `a whole number${range}`;
    case 'real':
      return `a number${range}`;
    case 'bool':
      return 'true or false';
    case 'text':
      return 'a text';
    case 'choice':
      return `one of ${row.options?.join(', ')}`;
    case 'reals':
      return `a list of numbers${range}`;
    case 'texts':
      return 'a list of texts';
    case 'interval':
      return 'a number of steps or a time such as "10m"';
  }
}

function rangeWords({ min, max }: Field): string {
  if (min !== undefined && max !== undefined)
    return max === LARGEST ? ` from ${min}` : ` from ${min} to ${max}`;
  if (min !== undefined) return ` from ${min}`;
  return max !== undefined ? ` up to ${max}` : '';
}

/**
 * Returns `value` if the field allows it, else throws a Failure that says what was expected and what came.
 */
export function checkValue(row: Field, value: unknown, where: string): unknown {
  if (!fits(row, value)) throw misfit(row, describe(value), where);
  return value;
}

/** Reads a value written as text (a flag, an environment variable) as the field's kind. */
export function readValue(row: Field, written: string, where: string): unknown {
  const value = fromText(row, written.trim());
  if (value === undefined || !fits(row, value)) throw misfit(row, JSON.stringify(written), where);
  return value;
}

function misfit(row: Field, got: string, where: string): Failure {
  const example = row.default === undefined ? '' : `. The default is ${show(row.default)}`;
  return new Failure({
    what: where,
    why: `expected ${expected(row)}, got ${got}${example}`,
    code: EXIT.usage,
  });
}

function fits(row: Field, value: unknown): boolean {
  switch (row.kind) {
    case 'int':
      return Number.isSafeInteger(value) && inRange(row, value as number);
    case 'real':
      return Number.isFinite(value) && inRange(row, value as number);
    case 'bool':
      return typeof value === 'boolean';
    case 'text':
      return typeof value === 'string';
    case 'choice':
      return typeof value === 'string' && row.options?.includes(value) === true;
    case 'reals':
      return (
        Array.isArray(value) && value.length > 0 && value.every((v) => Number.isFinite(v) && inRange(row, v))
      );
    case 'texts':
      return Array.isArray(value) && value.every((v) => typeof v === 'string');
    case 'interval':
      return typeof value === 'string'
        ? TIME.test(value)
        : Number.isSafeInteger(value) && (value as number) >= 0;
  }
}

function inRange({ min = -Infinity, max = Infinity }: Field, value: number): boolean {
  return value >= min && value <= max;
}

function fromText(row: Field, written: string): unknown {
  switch (row.kind) {
    case 'int':
    case 'real':
      return readNumber(written);
    case 'bool':
      return written === 'true' ? true : written === 'false' ? false : undefined;
    case 'text':
    case 'choice':
      return written;
    case 'reals':
      return listItems(written).map((item) => readNumber(item) ?? Number.NaN);
    case 'texts':
      return written.startsWith('[') ? jsonList(written) : listItems(written);
    case 'interval':
      return TIME.test(written) ? written : readNumber(written);
  }
}

/**
 * A decimal number as people write it (`-1`, `2.4e-4`); undefined for anything else, hexadecimal included.
 */
export function readNumber(written: string): number | undefined {
  return /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(written) ? Number(written) : undefined;
}

function listItems(written: string): string[] {
  const inner = written.replace(/^\[|\]$/g, '').trim();
  return inner === '' ? [] : inner.split(',').map((item) => item.trim());
}

function jsonList(written: string): unknown {
  try {
    return Bun.JSONC.parse(written);
  } catch {
    return undefined;
  }
}

const TIME = /^(\d+(?:\.\d+)?)(s|m|h)$/;

/** An interval as steps or as seconds, whichever it was written in. */
export type Interval = { readonly steps: number } | { readonly seconds: number };

/** Reads a checked value of kind `interval`. */
export function readInterval(value: number | string): Interval {
  const match = typeof value === 'string' ? TIME.exec(value) : null;
  if (!match) return { steps: Number(value) };
  return { seconds: Number(match[1]) * { s: 1, m: 60, h: 3600 }[match[2] as 's' | 'm' | 'h'] };
}

/** A value as it would stand in a TOML file. */
export function show(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(show).join(', ')}]`;
  return typeof value === 'string' ? JSON.stringify(value) : String(value);
}

function describe(value: unknown): string {
  if (typeof value === 'string') return `the text ${JSON.stringify(value)}`;
  if (value === null) return 'nothing (null)';
  if (Array.isArray(value)) return `the list ${shorten(show(value))}`;
  if (typeof value === 'object') return 'a table';
  return String(value);
}

function shorten(words: string): string {
  return words.length > 60 ? `${words.slice(0, 57)}...` : words;
}
