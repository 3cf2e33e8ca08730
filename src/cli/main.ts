// microdiff: arguments to command. The only place that ends the program (but for a second signal): a Failure
// becomes one line on stderr and its exit code, anything else is a fault of the program itself and says so.

import { EXIT, Failure } from '../io/failure.ts';
import { didYouMean } from '../recipe/nearest.ts';
import { runStrict, type Voice } from './command.ts';
import { COMMANDS, INTERNAL } from './commands.ts';
import { COMMON, parseFlags, usage } from './flags.ts';
import { helpOn } from './help.ts';
import { createLog, type Log, type LogOptions } from './log.ts';
import { Progress } from './progress.ts';
import { stdout } from './stdout.ts';
import { colorOn, hasLiveLine, writeStderr } from './terminal.ts';
import { versionLine } from './version.ts';

/** Runs the program on its arguments and returns its exit code. */
async function main(argv: readonly string[]): Promise<number> {
  const { before, name, after } = splitCommand(argv);
  let options = logOptions(before);
  try {
    const own = { ...COMMON, version: { ...COMMON.help, meaning: 'Print the version', alias: 'V' } };
    const early = parseFlags('', own, [], before).values;
    if (early.version) return print(`${versionLine()}\n`);
    if (early.help) return print(await helpOn(name, colorOn(process.stdout)));
    if (name === undefined) {
      writeStderr(await helpOn(undefined, colorOn(process.stderr)));
      return EXIT.usage;
    }
    const row = [...COMMANDS, ...INTERNAL].find((command) => command.name === name);
    if (!row) {
      throw usage(
        name,
        'no such command',
        didYouMean(
          name,
          COMMANDS.map((command) => command.name),
        ) ?? 'See --help',
      );
    }
    if (asksForHelp(after)) return print(await helpOn(name, colorOn(process.stdout)));
    options = logOptions([...before, ...after]);
    return await runStrict(row, [...before, ...after], voiceOf(options));
  } catch (error) {
    return report(error, createLog(options), options.verbose === true);
  }
}

/** The log and the live line, which share stderr. */
function voiceOf(options: LogOptions): Voice {
  const progress = new Progress({
    write: writeStderr,
    live: hasLiveLine(process.env, process.stderr.isTTY),
    columns: () => process.stderr.columns,
    quiet: options.quiet === true,
  });
  return { log: createLog({ ...options, progress }), progress };
}

/** Flags may stand before the command: `microdiff -q train tiny`. */
function splitCommand(argv: readonly string[]) {
  const at = argv.findIndex((word) => !word.startsWith('-') || word === '--');
  const command = at < 0 ? undefined : argv[at];
  return {
    before: at < 0 ? argv : argv.slice(0, at),
    name: command,
    after: at < 0 ? [] : argv.slice(at + 1),
  };
}

function asksForHelp(words: readonly string[]): boolean {
  const end = words.indexOf('--');
  return words.slice(0, end < 0 ? words.length : end).some((word) => word === '--help' || word === '-h');
}

/** Read leniently, because the log is needed to say what is wrong with the flags. */
function logOptions(words: readonly string[]): LogOptions {
  return {
    quiet: words.includes('-q') || words.includes('--quiet'),
    verbose: words.includes('-v') || words.includes('--verbose'),
    color: colorOn(process.stderr),
  };
}

function print(text: string): number {
  stdout.write(text);
  return 0;
}

function report(error: unknown, log: Log, verbose: boolean): number {
  if (error instanceof Failure) {
    log.error(error.message);
    return error.code;
  }
  const fault = error instanceof Error ? error : new Error(String(error));
  log.error(
    `internal: ${fault.message}. ${verbose ? fault.stack : 'Run again with -v for where it happened'}`,
  );
  return EXIT.failed;
}

process.exit(await main(process.argv.slice(2)));
