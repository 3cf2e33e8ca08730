// Training by several processes: the same losses as alone, one set of checkpoints for any number of ranks,
// and ends of every kind. The ranks are processes on the CPU, started by --gpus or by the variables of
// torchrun.
import { afterAll, beforeAll, describe, expect, test } from 'bun:test';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { Safetensors } from '../../../src/io/safetensors.ts';
import { resolveRecipe } from '../../../src/recipe/resolve.ts';
import { openData } from '../../../src/train/source.ts';
import { ended, Place, until } from './program.ts';

const place = new Place();
afterAll(() => place.remove());

const STEPS = 10;
/** Averages, routers that are read in float32, two stages; batches of 4 images. */
const SETS = [
  'optimizer.ema=0.9',
  'stage.0.steps=3',
  'stage.1.steps=7',
  'train.keep_last=100',
  'train.log_gap=true',
];
const tiny = (run: string, ...more: string[]) => {
  const sets = SETS.flatMap((key) => ['--set', key]);
  return ['train', 'tiny', '-o', run, ...sets, '--set', 'train.checkpoint_every=0', ...more];
};
/** Long enough to be met between two steps. */
const LONG = ['--steps', '100000', '--set', 'train.keep_last=2'];

const losses = (run: string) => place.metrics(run).map(({ loss }) => Number(loss));
const norms = (run: string) => place.metrics(run).map(({ grad_norm }) => Number(grad_norm));
const saved = (run: string) => JSON.parse(place.read(run, 'checkpoints', latest(run), 'state.json'));
const latest = (run: string) => place.read(run, 'latest').trim();

/** Largest relative distance of two lists. */
function distance(a: readonly number[], b: readonly number[]): number {
  expect(a.length).toBe(b.length);
  return Math.max(...a.map((x, i) => Math.abs(x / b[i]! - 1)));
}

/** Largest distance of any number in a file of the last checkpoints of two runs. */
function apart(a: string, b: string, file: string): number {
  const path = (run: string) => place.at(run, 'checkpoints', latest(run), file);
  using left = Safetensors.open(path(a));
  using right = Safetensors.open(path(b));
  expect([...left.tensors.keys()]).toEqual([...right.tensors.keys()]);
  return Math.max(
    ...[...left.tensors.keys()].map((name) => {
      const [x, y] = [left.readFloat32(name), right.readFloat32(name)];
      return x.reduce((most, value, i) => Math.max(most, Math.abs(value - y[i]!)), 0);
    }),
  );
}

beforeAll(async () => {
  const { code, err } = await place.run(tiny('alone'));
  expect([code, err]).toEqual([0, expect.stringContaining('10 steps')]);
});

describe('2 and 4 ranks', () => {
  test.each([2, 4])('%d ranks have the losses, norms and weights of one', async (ranks) => {
    const run = `by${ranks}`;
    const { code, out, err } = await place.run(tiny(run, '--gpus', `${ranks}`));
    expect([code, out]).toEqual([0, `${run}\n`]);
    expect(err.match(/parameters, 10 steps/g)).toHaveLength(1);
    expect(err).not.toMatch(/error|warning|rank/);
    expect(losses(run)).toHaveLength(STEPS);
    expect(distance(losses(run), losses('alone'))).toBeLessThan(1e-5);
    expect(distance(norms(run), norms('alone'))).toBeLessThan(1e-4);
    const rest = (line: Record<string, unknown>) => ({ ...line, loss: 0, grad_norm: 0, topk_gap: 0 });
    // No choice of a router came near to another one, beside what float32 rounds.
    const gaps = (of: string) => place.metrics(of).map(({ topk_gap }) => Number(topk_gap));
    expect(Math.min(...gaps('alone'))).toBeGreaterThan(0);
    expect(Math.max(...gaps('alone').map((gap, i) => Math.abs(gap - gaps(run)[i]!)))).toBeLessThan(2e-6);
    expect(place.metrics(run).map(rest)).toEqual(place.metrics('alone').map(rest));
    // Ten steps of lr 2.4e-4, where the sign of a tiny gradient may differ in one.
    expect(apart(run, 'alone', 'model.safetensors')).toBeLessThan(5e-4);
    expect(apart(run, 'alone', 'ema.safetensors')).toBeLessThan(5e-4);
    expect(apart(run, 'alone', 'optimizer.safetensors')).toBeLessThan(1e-3);
    for (const name of ['model.safetensors', `previews/step-000000${STEPS}.png`, 'recipe.toml']) {
      expect(existsSync(place.at(run, name)), name).toBe(true);
    }
  });

  test('a repeat by 2 ranks has the same bits', async () => {
    const { code } = await place.run(tiny('repeat', '--gpus', '2'));
    expect([code, losses('repeat'), norms('repeat')]).toEqual([0, losses('by2'), norms('by2')]);
    for (const file of ['model', 'ema', 'optimizer']) {
      expect(apart('repeat', 'by2', `${file}.safetensors`)).toBe(0);
    }
  });

  test('a run gone on with by 4, 2 and 1 ranks is the run of one', async () => {
    for (const [gpus, steps] of [
      [4, 1],
      [2, 4],
      [1, 7],
    ]) {
      const more = ['--gpus', `${gpus}`, '--set', `stage.1.steps=${steps}`];
      const { code, err } = await place.run(tiny('passed-on', ...more));
      expect([code, err]).toEqual([0, expect.not.stringContaining('error')]);
    }
    expect(distance(losses('passed-on'), losses('alone'))).toBeLessThan(1e-5);
    expect(apart('passed-on', 'alone', 'optimizer.safetensors')).toBeLessThan(1e-3);
  });

  test('passes of a micro-batch on each rank', async () => {
    const two = await place.run(tiny('passes', '--gpus', '2', '--set', 'train.micro_batch=1'));
    expect([two.code, two.err]).toEqual([0, expect.not.stringContaining('error')]);
    expect(distance(losses('passes'), losses('alone'))).toBeLessThan(1e-5);
  });

  test('together ranks read the images of one, in its order', async () => {
    const { recipe } = resolveRecipe({
      sets: ['model.preset=nano', 'data.source.0.name=shapes', 'stage.0.steps=1'],
    });
    const read = async (rank: number, ranks: number) => {
      const stage = (await openData(recipe, () => {}, { rank, ranks })).stage(0);
      const batch = stage.allocate(8 / ranks);
      await stage.fill(batch, 16);
      const pixels = batch.inputs.x0!.length / batch.places.length;
      return [...batch.places].map((at, n) => [
        at,
        Bun.hash(batch.inputs.x0!.slice(n * pixels, (n + 1) * pixels)),
      ]);
    };
    const alone = await read(0, 1);
    const [a, b] = [await read(0, 2), await read(1, 2)];
    expect(a.flatMap((image, i) => [image, b[i]])).toEqual(alone);
    expect(alone.map(([at]) => at)).toEqual([16, 17, 18, 19, 20, 21, 22, 23]);
  });
});

/** Processes started as torchrun does it. */
let port = 20_000 + (process.pid % 20_000);
function ranks(count: number, args: (rank: number) => string[], env: Record<string, string> = {}) {
  port += 2;
  return Array.from({ length: count }, (_, rank) =>
    place.start(args(rank), {
      RANK: `${rank}`,
      WORLD_SIZE: `${count}`,
      LOCAL_RANK: `${rank}`,
      MASTER_ADDR: '127.0.0.1',
      MASTER_PORT: `${port}`,
      MICRODIFF_JOIN_SECONDS: '30',
      ...env,
    }),
  );
}

const begun = (run: string) => existsSync(place.at(run, 'latest'));

describe('ends', () => {
  /** Process numbers of the ranks that a launcher has started. */
  const childrenOf = (pid: number) =>
    readdirSync(`/proc/${pid}/task`).flatMap((thread) =>
      readFileSync(join('/proc', `${pid}`, 'task', thread, 'children'), 'utf8')
        .split(' ')
        .filter(Boolean)
        .map(Number),
    );

  test('SIGTERM to the launcher: all stop after the same step, with a checkpoint', async () => {
    const child = place.start(tiny('stopped', '--gpus', '2', ...LONG));
    await until(
      child,
      () => existsSync(place.at('stopped', 'metrics.jsonl')) && place.read('stopped', 'metrics.jsonl') !== '',
    );
    child.kill('SIGTERM');
    const { code, err } = await ended(child);
    expect([code, err]).toEqual([143, expect.stringContaining('warning: SIGTERM: saving, then stopping')]);
    expect(err).not.toContain('error');
    expect(place.metrics('stopped').at(-1)).toMatchObject({ step: saved('stopped').step });
  });

  test('SIGTERM to one rank of torchrun: the others stop after the same step', async () => {
    const children = ranks(2, () => tiny('one-stopped', ...LONG));
    await until(
      children[0]!,
      () =>
        existsSync(place.at('one-stopped', 'metrics.jsonl')) &&
        place.read('one-stopped', 'metrics.jsonl') !== '',
    );
    children[1]!.kill('SIGTERM');
    const all = await Promise.all(children.map(ended));
    expect(all.map(({ code }) => code)).toEqual([143, 143]);
    expect(all.map(({ out }) => out)).toEqual(['one-stopped\n', '']);
    expect(place.metrics('one-stopped').at(-1)).toMatchObject({ step: saved('one-stopped').step });
  });

  test('kill -9 of a rank: the launcher ends all and says what is kept; one rank goes on', async () => {
    const child = place.start(tiny('killed', '--gpus', '4', ...LONG, '--checkpoint-every', '1'));
    await until(child, () => begun('killed'));
    const pids = childrenOf(child.pid);
    expect(pids).toHaveLength(4);
    const victim = pids.find((pid) => readFileSync(`/proc/${pid}/environ`, 'utf8').includes('\0RANK=2\0'))!;
    process.kill(victim, 'SIGKILL');
    const { code, err } = await ended(child);
    expect(code).toBe(137);
    const kept = latest('killed');
    expect(err).toContain(`error: rank 2: is gone, and the run ends with it. checkpoint ${kept} of killed`);
    expect(err.trimEnd().split('\n').at(-1)).toBe(
      `error: rank 2: was ended by SIGKILL. Checkpoint ${kept} of killed is kept: ` +
        'the same command goes on from it',
    );
    for (const pid of pids) expect(existsSync(`/proc/${pid}`)).toBe(false);
    const { step } = saved('killed');
    const after = await place.run(tiny('killed', ...LONG.slice(2), '--steps', `${step + 10}`));
    expect([after.code, after.err]).toEqual([0, expect.stringContaining(`goes on from step ${step} of`)]);
  });

  test('kill -9 of a rank of torchrun: the others end by themselves', async () => {
    const children = ranks(2, () => tiny('alone-killed', ...LONG, '--checkpoint-every', '1'));
    await until(children[0]!, () => begun('alone-killed'));
    children[1]!.kill('SIGKILL');
    const { code, err } = await ended(children[0]!);
    expect(code).toBe(1);
    expect(err).toMatch(
      /error: rank 1: is gone, and the run ends with it\. checkpoint step-\d+ of alone-killed is kept/,
    );
  });
});

describe('refused', () => {
  const oneLine = /^error: [^\n]+\n$/;

  test('another recipe on a rank', async () => {
    const sets = (rank: number) => ['--set', `optimizer.lr=${rank === 1 ? 1e-3 : 1e-4}`];
    const all = await Promise.all(ranks(2, (rank) => tiny('recipes', ...sets(rank))).map(ended));
    expect(all.map(({ code }) => code)).toEqual([2, 2]);
    const words = 'rank 1: has another recipe than rank 0. Start all ranks with the same command';
    for (const { err } of all) expect(err).toContain(words);
    expect(all[0]!.err).toMatch(oneLine);
    expect(existsSync(place.at('recipes'))).toBe(false);
  });

  test('a port that is taken', async () => {
    using taken = Bun.listen({ hostname: '127.0.0.1', port: 0, socket: { data() {} } });
    const env = { MASTER_PORT: `${taken.port - 1}`, MICRODIFF_JOIN_SECONDS: '1' };
    const [first] = ranks(1, () => tiny('port'), { ...env, WORLD_SIZE: '2' });
    const { code, err } = await ended(first!);
    expect(code).toBe(2);
    expect(err).toBe(
      `error: port ${taken.port} (MASTER_PORT + 1): is taken by another program. ` +
        'Choose another MASTER_PORT\n',
    );
  });

  test('a rank that does not come, and a rank 0 that is not there', async () => {
    const env = { WORLD_SIZE: '4', MICRODIFF_JOIN_SECONDS: '1' };
    const [none] = ranks(1, () => tiny('late'), env);
    const { code, err } = await ended(none!);
    expect([code, err]).toEqual([1, expect.stringContaining('ranks 1, 2, 3 have not come within 1 s')]);
    const [, lone] = ranks(2, (rank) => (rank === 0 ? ['version'] : tiny('late')), env);
    const second = await ended(lone!);
    expect([second.code, second.err]).toEqual([
      1,
      expect.stringMatching(/rank 0 at 127\.0\.0\.1:\d+: is not there/),
    ]);
  });

  test.each([
    [{ RANK: '4', WORLD_SIZE: '4' }, 'RANK: there is no rank 4 of 4'],
    [{ RANK: '1' }, 'WORLD_SIZE: is not set, and RANK is'],
    [{ WORLD_SIZE: '2' }, 'RANK: is not set, and WORLD_SIZE is'],
    [{ RANK: '1', WORLD_SIZE: '2' }, 'LOCAL_RANK: is not set, and RANK is'],
    [{ RANK: '1', WORLD_SIZE: '2', LOCAL_RANK: '1' }, 'MASTER_PORT: is not set, and RANK is'],
    [
      { RANK: '1', WORLD_SIZE: '2', LOCAL_RANK: 'x', MASTER_PORT: '9', MASTER_ADDR: 'a' },
      'LOCAL_RANK: "x" is no',
    ],
    [{ SLURM_PROCID: '1', SLURM_NTASKS: '2', SLURM_STEP_ID: '0' }, 'SLURM_LOCALID: is not set'],
    [{ OMPI_COMM_WORLD_RANK: '0' }, 'OMPI_COMM_WORLD_SIZE: is not set'],
  ])('%o', async (env, words) => {
    const { code, err } = await place.run(tiny('env'), env as unknown as Record<string, string>);
    expect([code, err]).toEqual([2, expect.stringContaining(words)]);
    expect(err).toMatch(oneLine);
  });

  test('a batch that cannot be shared out; --gpus beside the variables of ranks', async () => {
    const three = await place.run(tiny('three', '--gpus', '3'));
    const words =
      'train.batch_size: 4 images cannot be shared out over 3 ranks in equal parts. ' +
      'Use another number of GPUs, or change it';
    expect([three.code, three.err]).toEqual([2, expect.stringContaining(words)]);
    expect(three.err).toMatch(oneLine);
    const env = { RANK: '0', WORLD_SIZE: '2', LOCAL_RANK: '0', MASTER_ADDR: 'a', MASTER_PORT: '99' };
    const both = await place.run(tiny('both', '--gpus', '2'), env);
    expect([both.code, both.err]).toEqual([
      2,
      expect.stringContaining('--gpus: this process is rank 0 of 2 already'),
    ]);
  });

  test('alone: one rank by the variables, and the script of a batch', async () => {
    const one = { RANK: '0', WORLD_SIZE: '1', LOCAL_RANK: '0' };
    for (const env of [one, { SLURM_PROCID: '0', SLURM_NTASKS: '8' }]) {
      const { code } = await place.run(tiny('single'), env as unknown as Record<string, string>);
      expect(code).toBe(0);
    }
  });
});
