// What a command is (one row of the command table), and its passage through citty: help text and call.

import { type ArgsDef, type CommandDef, defineCommand, renderUsage, runCommand } from 'citty';
import {
  type Argument,
  COMMON,
  type Flag,
  type Flags,
  type FlagValues,
  type Parsed,
  parseFlags,
} from './flags.ts';
import type { Log } from './log.ts';
import type { Progress } from './progress.ts';

/** What a command gets to work with. */
export interface Call<F extends Flags = Flags> {
  readonly values: FlagValues<F & typeof COMMON>;
  /** Arguments without a dash. */
  readonly args: readonly string[];
  /** Names of the flags that were given, as against left at their default. */
  readonly given: ReadonlySet<string>;
  readonly log: Log;
  /** The live line; it makes room for the log by itself. */
  readonly progress: Progress;
}

/** What a command says things with, besides its data on stdout. */
export type Voice = Pick<Call, 'log' | 'progress'>;

/** One command. `run` returns the exit code; 0 when it returns nothing. */
export interface Command {
  readonly name: string;
  readonly summary: string;
  readonly flags: Flags;
  readonly args: readonly Argument[];
  /** Command line and what it does, for help. */
  readonly examples: readonly (readonly [string, string])[];
  run(parsed: Parsed, voice: Voice): Promise<number>;
}

interface Definition<F extends Flags> {
  readonly name: string;
  readonly summary: string;
  readonly flags?: F;
  readonly args?: readonly Argument[];
  readonly examples: readonly (readonly [string, string])[];
  run(call: Call<F>): Promise<number | undefined> | number | undefined;
}

/** Makes a command of its parts; the flags' types reach `run`, and the common flags are added. */
export function command<const F extends Flags = Record<never, Flag>>(parts: Definition<F>): Command {
  return {
    name: parts.name,
    summary: parts.summary,
    flags: { ...parts.flags, ...COMMON },
    args: parts.args ?? [],
    examples: parts.examples,
    async run({ args, values, given }, voice) {
      const code = await parts.run({ ...voice, args, given, values: values as Call<F>['values'] });
      return code ?? 0;
    },
  };
}

/** Checks the arguments of a command strictly, then has citty run it. Returns the exit code. */
export async function runStrict(row: Command, argv: readonly string[], voice: Voice): Promise<number> {
  const parsed = parseFlags(row.name, row.flags, row.args, argv);
  const definition = defineCommand({
    ...cittyCommand(row),
    run: () => row.run(parsed, voice),
  });
  const { result } = await runCommand(definition, { rawArgs: ['--', ...parsed.args] });
  return result as number;
}

/** Help of one command, in citty's layout, with the examples below. */
export async function commandHelp(row: Command): Promise<string> {
  const text = await renderUsage(cittyCommand(row), { meta: { name: 'microdiff' } });
  const examples = row.examples.flatMap(([line, meaning]) => [`  ${line}`, `      ${meaning}`]);
  return tidy(`${text.trimEnd()}\n\nEXAMPLES\n\n${examples.join('\n')}`);
}

/** Help of the program: the list of commands. */
export async function programHelp(
  rows: readonly Command[],
  summary: string,
  version: string,
): Promise<string> {
  const subCommands = Object.fromEntries(rows.map((row) => [row.name, cittyCommand(row)]));
  const versionFlag = {
    version: { type: 'boolean', alias: 'V', description: 'Print the version and exit' },
  } as const;
  const text = await renderUsage({
    meta: { name: 'microdiff', description: summary, version },
    args: { ...versionFlag, ...cittyArgs(COMMON, []) },
    subCommands,
  });
  return tidy(text);
}

/** Without the spaces that citty pads its columns with at the end of lines, where colour codes may follow. */
function tidy(text: string): string {
  const lines = text.split('\n').map((line) => {
    return Bun.stripANSI(line).endsWith(' ') ? line.replace(/ +(\S*)$/, '$1') : line;
  });
  return `${lines.join('\n').trimEnd()}\n`;
}

function cittyCommand(row: Command): CommandDef {
  return {
    meta: { name: row.name, description: row.summary },
    args: cittyArgs(row.flags, row.args),
  };
}

function cittyArgs(flags: Flags, args: readonly Argument[]): ArgsDef {
  const result: ArgsDef = {};
  for (const arg of args) {
    const options = arg.options ? `: ${arg.options.join(', ')}` : '';
    const name = `${arg.name}${arg.many ? '...' : ''}`;
    result[name] = {
      type: 'positional',
      description: arg.meaning + options,
      required: arg.required === true,
    };
  }
  for (const [name, row] of Object.entries(flags)) result[name] = cittyFlag(name, row);
  return result;
}

function cittyFlag(name: string, row: Flag): ArgsDef[string] {
  const alias = row.alias ? { alias: row.alias } : {};
  const unit = row.unit ? ` (${row.unit})` : '';
  const description = `${row.meaning}${unit}${row.many ? ' (may be repeated)' : ''}`;
  if (row.kind === 'bool') return { type: 'boolean', description, ...alias };
  const value = row.default === undefined || row.many ? {} : { default: String(row.default) };
  const hint = row.options ? row.options.join('|') : (row.hint ?? hintOf(name, row));
  return { type: 'string', valueHint: hint, description, ...alias, ...value };
}

function hintOf(name: string, row: Flag): string {
  return row.kind === 'int' || row.kind === 'real' ? 'N' : name.toUpperCase();
}
