// Starts the ranks of `--gpus N` as processes of their own, and looks after them: signals are handed on as
// one wish to stop, and a rank that dies takes the others with it, with its reason.

import { constants } from 'node:os';
import { createServer } from 'node:net';
import type { Call } from './command.ts';
import { EXIT } from '../io/failure.ts';
import { watchSignals, type Interrupt } from './interrupt.ts';
import { ourselves } from './ourselves.ts';
import { LAUNCHED } from './ranks.ts';
import { writeStderr } from './terminal.ts';

/** How long the others have to end by themselves when a rank has failed. */
const GRACE_MS = 3000;
const STOP = 'stop\n';
/** Exit codes that all ranks may end with for one reason. */
const ALIKE: ReadonlySet<number> = new Set([EXIT.usage, EXIT.nonFinite]);
const SIGNALS: Readonly<Record<string, number>> = constants.signals;

interface Fallen {
  readonly rank: number;
  readonly code: number;
  readonly why: string;
}

/** Runs this program's own command line as `ranks` processes; `kept` says what is there to go on from. */
export async function launchRanks(
  ranks: number,
  { log }: Pick<Call, 'log'>,
  kept: () => string,
): Promise<number> {
  const interrupt = watchSignals(log);
  const port = await freePort();
  const children = Array.from({ length: ranks }, (_, rank) => start(rank, ranks, port));
  const end = () => {
    for (const child of children) child.kill('SIGKILL');
  };
  process.on('exit', end); // a second signal ends this process at once
  interrupt.stopped.then(() => {
    for (const { stdin } of children) {
      stdin.write(STOP);
      stdin.flush();
    }
  });
  const fallen = Promise.withResolvers<Fallen | null>();
  const said = children.map((child, rank) => (child.stderr ? prefix(child.stderr, `rank ${rank}: `) : ''));
  const ends = children.map(async (child, rank) => {
    await child.exited;
    const { exitCode, signalCode } = child;
    if (exitCode === 0) return;
    const code = exitCode ?? 128 + (SIGNALS[String(signalCode)] ?? 0);
    const why = signalCode ? `was ended by ${signalCode}` : `ended with exit code ${exitCode}`;
    fallen.resolve({ rank, code, why });
  });
  const all = Promise.all(ends);
  all.then(() => fallen.resolve(null));
  const first = await fallen.promise;
  if (first) {
    await Promise.race([all, Bun.sleep(GRACE_MS)]);
    end();
    await all;
    const errors = await Promise.all(said);
    // A recipe that is refused, or a loss that is not finite: all have ended with it, and rank 0 says it.
    const alike = ALIKE.has(first.code) && children.every(({ exitCode }) => exitCode === first.code);
    if (!alike) {
      for (const text of errors) writeStderr(text);
      log.error(`rank ${first.rank}: ${first.why}. ${kept()}`);
    }
  }
  process.off('exit', end);
  return first?.code ?? interrupt.exitCode ?? 0;
}

function start(rank: number, ranks: number, port: number) {
  const child = Bun.spawn([...ourselves(), ...process.argv.slice(2)], {
    env: {
      ...process.env,
      [LAUNCHED]: '1',
      RANK: String(rank),
      WORLD_SIZE: String(ranks),
      LOCAL_RANK: String(rank),
      LOCAL_WORLD_SIZE: String(ranks),
      MASTER_ADDR: '127.0.0.1',
      MASTER_PORT: String(port - 1),
    },
    stdin: 'pipe',
    stdout: rank === 0 ? 'inherit' : 'ignore',
    stderr: rank === 0 ? 'inherit' : 'pipe',
  });
  return child;
}

/** Hands on what a rank says, line by line; returns its errors, which may be those of all. */
async function prefix(stream: ReadableStream<Uint8Array>, words: string): Promise<string> {
  let text = '';
  let errors = '';
  const tell = (line: string) => {
    if (line.startsWith('error: ')) errors += `${words}${line}\n`;
    else writeStderr(`${words}${line}\n`);
  };
  const decoder = new TextDecoder();
  for await (const part of stream) {
    text += decoder.decode(part, { stream: true });
    const lines = text.split('\n');
    text = lines.pop()!;
    lines.forEach(tell);
  }
  if (text) tell(text);
  return errors;
}

/** A port that nobody listens on just now. */
function freePort(): Promise<number> {
  const server = createServer();
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      const port = typeof address === 'object' && address ? address.port : 0;
      server.close(() => resolve(port));
    });
  });
}

/**
 * The interrupt of a process that `launchRanks` has started: signals reach it too where a terminal or a batch
 * system sends them to all processes, but when to stop is for the launcher to say. Its end means to stop,
 * too.
 */
export function watchLauncher(): Interrupt {
  const { promise: stopped, resolve } = Promise.withResolvers<void>();
  const state = { stopRequested: false, exitCode: 0, stopped };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {});
  const stop = () => {
    state.stopRequested = true;
    resolve();
  };
  process.stdin.on('data', stop);
  process.stdin.on('end', stop);
  process.stdin.on('error', stop);
  process.stdin.resume();
  return state;
}
