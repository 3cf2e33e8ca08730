// The strict pass over raw arguments that stands in front of citty. Flags are data: parser, types, help and
// shell completion all come from the same table. citty itself lets unknown flags through, checks no numbers
// and takes the last of repeated flags in silence.

import { EXIT, Failure } from '../io/failure.ts';
import { bool, checkValue, type Field, readNumber, readValue } from '../recipe/field.ts';
import { didYouMean } from '../recipe/nearest.ts';

/** A flag: a row like a recipe key's, and how it is written. */
export interface Flag<V = unknown> extends Field<V> {
  /** One letter: `o` for -o. */
  readonly alias?: string;
  /** Word for the value in help: --out <FILE>. */
  readonly hint?: string;
  /** May stand without a value, which is then ''; the next word is its value only where it looks like one. */
  readonly bare?: RegExp;
  /** May be given several times; the value is the list of all. */
  readonly many?: boolean;
}

export type Flags = Readonly<Record<string, Flag>>;
export type FlagValues<F> = { readonly [K in keyof F]: F[K] extends Flag<infer V> ? V : never };

/** An argument without a dash. */
export interface Argument {
  readonly name: string;
  readonly meaning: string;
  readonly required?: boolean;
  /** Takes all that are left. */
  readonly many?: boolean;
  readonly options?: readonly string[];
}

export interface Parsed {
  readonly values: Readonly<Record<string, unknown>>;
  /** Arguments without a dash, in order. */
  readonly args: readonly string[];
  /** Names of the flags that were given. */
  readonly given: ReadonlySet<string>;
}

interface Writing {
  readonly bare?: RegExp;
  readonly alias?: string;
  readonly hint?: string;
}

/** A flag made from a row. */
export function flag<V>(row: Field<V>, writing: Writing = {}): Flag<V> {
  return { ...row, ...writing };
}

/** A flag that may be given several times. */
export function manyFlag(row: Field<string | undefined>, writing: Writing = {}): Flag<readonly string[]> {
  return { ...row, default: [], ...writing, many: true };
}

/** Flags of every command. */
export const COMMON = {
  quiet: flag(bool(false, 'Print warnings and errors only'), { alias: 'q' }),
  verbose: flag(bool(false, 'Print details, and the stack of an internal error'), { alias: 'v' }),
  'no-color': flag(bool(false, 'No colours (also: NO_COLOR=1)')),
  help: flag(bool(false, 'Print this help'), { alias: 'h' }),
} satisfies Flags;

/** Flags that mean the same in each command that has them. */
export const SHARED = {
  json: flag(bool(false, 'Print one JSON object on stdout')),
  'dry-run': flag(bool(false, 'Print what would be done as JSON, and do nothing')),
};

/** Parses the arguments of one command; every slip is a Failure with exit code 2 that names the flag. */
export function parseFlags(
  command: string,
  flags: Flags,
  args: readonly Argument[],
  argv: readonly string[],
): Parsed {
  const values: Record<string, unknown> = {};
  for (const [name, row] of Object.entries(flags)) values[name] = row.many ? [] : row.default;
  const given = new Set<string>();
  const rest: string[] = [];

  for (let i = 0; i < argv.length; i++) {
    const word = argv[i]!;
    if (word === '--') {
      rest.push(...argv.slice(i + 1));
      break;
    }
    if (!isFlag(word)) {
      rest.push(word);
      continue;
    }
    const [written, attached] = splitFlag(word);
    const name = findFlag(flags, written);
    if (name === undefined) throw unknownFlag(command, flags, written);
    const row = flags[name]!;
    if (given.has(name) && !row.many) {
      throw usage(`--${name}`, 'given more than once', 'Give it once');
    }
    given.add(name);
    if (row.kind === 'bool') {
      values[name] = attached === undefined ? true : readValue(row, attached, `--${name}`);
      continue;
    }
    if (row.bare && attached === undefined && !row.bare.test(argv[i + 1] ?? '')) {
      values[name] = '';
      continue;
    }
    const text = attached ?? valueAfter(argv[++i], name, row);
    const value = row.many ? checkValue(row, text, `--${name}`) : readValue(row, text, `--${name}`);
    if (row.many) (values[name] as unknown[]).push(value);
    else values[name] = row.kind === 'text' ? text : value;
  }
  checkArguments(command, args, rest);
  return { values, args: rest, given };
}

/** A dash alone is stdin or stdout, and `-1` is a number: neither is a flag. */
function isFlag(word: string): boolean {
  return word.startsWith('-') && word !== '-' && readNumber(word) === undefined;
}

function splitFlag(word: string): [string, string | undefined] {
  const at = word.indexOf('=');
  return at < 0 ? [word, undefined] : [word.slice(0, at), word.slice(at + 1)];
}

function findFlag(flags: Flags, written: string): string | undefined {
  if (written.startsWith('--')) {
    const name = written.slice(2);
    return Object.hasOwn(flags, name) ? name : undefined;
  }
  return Object.keys(flags).find((name) => flags[name]!.alias === written.slice(1));
}

function valueAfter(next: string | undefined, name: string, row: Flag): string {
  if (next !== undefined && !isFlag(next)) return next;
  const why = next === undefined ? 'needs a value' : `needs a value, but ${next} follows`;
  const example = row.hint ?? row.options?.[0] ?? 'VALUE';
  throw usage(
    `--${name}`,
    why,
    `Write --${name} ${example}, or --${name}=VALUE for one that begins with a dash`,
  );
}

function unknownFlag(command: string, flags: Flags, written: string): Failure {
  const names = Object.keys(flags).map((name) => `--${name}`);
  const near = written.startsWith('--') ? didYouMean(written, names) : undefined;
  const help = command === '' ? 'microdiff --help' : `microdiff ${command} --help`;
  const long = near?.startsWith('Did') ? near : `See ${help}`;
  return usage(written, command === '' ? 'unknown flag' : `unknown flag of ${command}`, long);
}

function checkArguments(command: string, args: readonly Argument[], rest: readonly string[]): void {
  const last = args.at(-1);
  if (!last?.many && rest.length > args.length) {
    const extra = rest[args.length]!;
    throw usage(extra, `${command} takes ${wordsOf(args)}`, `See microdiff ${command} --help`);
  }
  for (const [i, arg] of args.entries()) {
    const word = rest[i];
    if (word === undefined) {
      if (!arg.required) continue;
      const words = arg.options ? `one of ${arg.options.join(', ')}` : arg.meaning;
      throw usage(arg.name, `missing (${words})`, `See microdiff ${command} --help`);
    }
    if (arg.options && !arg.options.includes(word)) {
      throw usage(word, `not a ${arg.name} of ${command}`, didYouMean(word, arg.options));
    }
  }
}

function wordsOf(args: readonly Argument[]): string {
  const names = args.map(({ name }) => name.toUpperCase());
  if (names.length > 1) return `${names.join(' and ')}, and nothing else`;
  return names.length === 0 ? 'no argument' : 'one argument';
}

/** A Failure for a slip on the command line. */
export function usage(what: string, why: string, fix?: string): Failure {
  return new Failure({ what, why, ...(fix === undefined ? {} : { fix }), code: EXIT.usage });
}
