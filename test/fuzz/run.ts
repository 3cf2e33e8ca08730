// Fuzzes the readers for a while:
//
//   bun test/fuzz/run.ts --seconds 600            every target, turn by turn; a seed of the clock
//   bun test/fuzz/run.ts --target 'mds shard' --seed 5 --only 1234      one input, again
//
// The readers run in a child, so that a crash and a call that does not come back are findings like others.

import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { type FuzzCounts, type FuzzTarget, fuzz, inputOf } from './fuzz.ts';
import { TARGETS } from './targets.ts';

/** A call of more than this has hung; the slowest machines need a fraction of it. */
const HANG_SECONDS = 60;
/** More than all targets need together; the inputs have some ten kilobytes. */
const MEMORY_BYTES = 1.5 * 2 ** 30;
/** Inputs of a target before the next one's turn, and milliseconds if that is sooner. */
const TURN = { inputs: 100, ms: 1000 };
/** Time between two signs of life, unless a single input takes longer. */
const BEAT_MS = 100;

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '30' },
    seed: { type: 'string', default: String(Date.now() % 2 ** 31) },
    target: { type: 'string' },
    only: { type: 'string' },
    child: { type: 'boolean', default: false },
  },
});
const seed = Number(values.seed);
const chosen = TARGETS.filter(({ name }) => values.target === undefined || name === values.target);
if (chosen.length === 0) {
  console.error(`no target ${values.target}; there are: ${TARGETS.map(({ name }) => name).join(', ')}`);
  process.exit(2);
}

if (values.only !== undefined) process.exit(await again(chosen[0]!, Number(values.only)));
else if (values.child) await work(chosen, Number(values.seconds));
else process.exit(await watch());

/** One input once more; its bytes are left in build/fuzz-input. */
async function again(target: FuzzTarget, n: number): Promise<number> {
  writeFileSync('build/fuzz-input', inputOf(target, seed, n));
  const counts = await fuzz(target, seed, (i) => i > n, { first: n });
  console.log(counts);
  return counts.findings.length > 0 ? 1 : 0;
}

type Message =
  | { readonly kind: 'beat'; readonly target: string; readonly n: number }
  | { readonly kind: 'done'; readonly target: string; readonly counts: FuzzCounts; readonly rss: number };

/** In the child: targets turn by turn until the time is over. */
async function work(targets: readonly FuzzTarget[], seconds: number): Promise<void> {
  const end = performance.now() + seconds * 1000;
  const next = new Map(targets.map((target) => [target, 0]));
  const send = (message: Message) => process.send?.(message);
  while (performance.now() < end) {
    for (const target of targets) {
      const first = next.get(target)!;
      const started = performance.now();
      let told = 0;
      const beat = (n: number) => {
        if (n > first && performance.now() - told < BEAT_MS) return;
        told = performance.now();
        send({ kind: 'beat', target: target.name, n });
      };
      const enough = (n: number) => n >= first + TURN.inputs || performance.now() - started > TURN.ms;
      const counts = await fuzz(target, seed, enough, { first, beat });
      next.set(target, first + counts.inputs);
      // Memory of calls that failed inside Bun's zlib comes back only between two turns of the event loop.
      await Bun.sleep(0);
      Bun.gc(true);
      send({ kind: 'done', target: target.name, counts, rss: process.resourceUsage().maxRSS * 1024 });
    }
  }
  process.disconnect?.();
}

/** In the parent: a table of what was tried. Returns the exit code. */
async function watch(): Promise<number> {
  const sums = new Map(chosen.map(({ name }) => [name, { inputs: 0, read: 0, slowest: 0, findings: 0 }]));
  let last = 'nothing';
  let alive = performance.now();
  let rss = 0;
  let failed = 0;
  const hear = (message: Message) => {
    alive = performance.now();
    if (message.kind === 'beat') {
      last = `${message.target}, input ${message.n} or one of the next ${TURN.inputs}`;
      return;
    }
    const sum = sums.get(message.target)!;
    rss = Math.max(rss, message.rss);
    sum.inputs += message.counts.inputs;
    sum.read += message.counts.read;
    sum.slowest = Math.max(sum.slowest, message.counts.slowest);
    sum.findings += message.counts.findings.length;
    for (const { target, n, why } of message.counts.findings) {
      failed += 1;
      if (failed <= 20) console.log(`FOUND ${target}, input ${n} of seed ${seed}: ${why}`);
    }
  };
  const child = Bun.spawn([process.execPath, import.meta.path, '--child', ...childFlags()], {
    ipc: hear,
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  const timer = setInterval(() => {
    if (performance.now() - alive > HANG_SECONDS * 1000) child.kill('SIGKILL');
  }, 1000);
  await child.exited;
  clearInterval(timer);
  for (const [name, { inputs, read, slowest, findings }] of sums) {
    const counts = `${String(inputs).padStart(9)} inputs, ${String(read).padStart(8)} read`;
    const row = `${counts}, slowest ${slowest.toFixed(0)} ms`;
    console.log(`${name.padEnd(24)}${row}${findings ? `, ${findings} FOUND` : ''}`);
  }
  if (child.exitCode !== 0) {
    failed += 1;
    const how =
      child.signalCode === 'SIGKILL' ? `no answer for ${HANG_SECONDS} s` : `ended by ${child.signalCode}`;
    console.log(`FOUND ${how}: ${last} of seed ${seed}`);
  }
  if (rss > MEMORY_BYTES) {
    failed += 1;
    console.log(`FOUND more memory than all inputs can need: ${(rss / 2 ** 20).toFixed(0)} MiB`);
  }
  console.log(`seed ${seed}, at most ${(rss / 2 ** 20).toFixed(0)} MiB of memory, ${failed} found`);
  return failed > 0 ? 1 : 0;
}

function childFlags(): string[] {
  const target = values.target === undefined ? [] : ['--target', values.target];
  return ['--seconds', values.seconds, '--seed', values.seed, ...target];
}
