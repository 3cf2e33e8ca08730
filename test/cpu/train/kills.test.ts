// Four stages of two sizes, with masks, moments kept and dropped, and averaged weights that begin late:
// killed
// twenty times at random moments, the run ends in the bits of an undisturbed one.
import { afterAll, expect, test } from 'bun:test';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { Place } from './program.ts';

const place = new Place();
afterAll(() => place.remove());

const KILLS = 20;
const STEPS = 80;
const LAST = `step-000000${STEPS}`;

/** As recipes/micro-budget.toml, in small: masked and not at one size, then at twice the size. */
const RECIPE = `
[model]
preset = "nano"
[optimizer]
ema = 0.9
[schedule]
kind = "warmup-cosine"
warmup_steps = 3
[[data.source]]
name = "shapes"
[train]
batch_size = 4
micro_batch = 2
log_every = 1
checkpoint_every = 1
keep_last = 2
keep_every = 20
preview_every = 0
preview_prompts = ["a red circle"]
[sample]
steps = 1
[[stage]]
steps = 20
mask_ratio = 0.75
[[stage]]
steps = 20
lr = 1e-4
[[stage]]
steps = 20
input_size = 16
pos_interp_scale = 2.0
mask_ratio = 0.75
optimizer = "drop"
clip_norm = 0.5
ema_start = 4
[[stage]]
steps = 20
input_size = 16
pos_interp_scale = 2.0
schedule = "constant"
P_mean = 0.0
`;

const train = (run: string) => ['train', 'four.toml', '-o', run];

/** Numbers in [0, 1) that are the same in every run of the test; the moments that they mean never are. */
let state = 7;
function random(): number {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return state / 2 ** 32;
}

/** Steps that the run has lines for, as far as they can be read just now. */
function lines(run: string): number {
  const path = place.at(run, 'metrics.jsonl');
  return existsSync(path) ? readFileSync(path, 'utf8').split('\n').length - 1 : 0;
}

/**
 * Starts the program and kills it: every fifth time while it starts, else some steps later, at any point of a
 * step or of the writing of its checkpoint. Returns whether it was still at work.
 */
async function killed(run: string, round: number): Promise<boolean> {
  const child = place.start(train(run));
  if (round % 5 === 4) {
    await Bun.sleep(250 * random());
  } else {
    const enough = lines(run) + Math.floor(2 * random());
    while (child.exitCode === null && lines(run) <= enough) await Bun.sleep(1);
    await Bun.sleep(20 * random());
  }
  const alive = child.exitCode === null;
  child.kill('SIGKILL');
  await child.exited;
  return alive;
}

test(`four stages, killed ${KILLS} times, end in the bits of an undisturbed run`, async () => {
  writeFileSync(place.at('four.toml'), RECIPE);
  const whole = await place.run(train('whole'));
  expect([whole.code, whole.out]).toEqual([0, 'whole\n']);
  let kills = 0;
  // On a fast machine a run may come near its end before: then another one takes the rest of the kills.
  const runs: string[] = [];
  while (kills < KILLS) {
    const run = `killed-${runs.length}`;
    runs.push(run);
    for (let alive = true; alive && kills < KILLS && lines(run) < STEPS - 8; ) {
      alive = await killed(run, kills);
      if (alive) kills++;
    }
  }
  expect(runs.length).toBeLessThan(6);
  for (const run of runs) {
    const { code, err } = await place.run(train(run));
    expect([code, err]).toEqual([0, expect.stringMatching(/goes on from step|parameters/)]);
    const [{ 'state.json': _, ...left }, { 'state.json': __, ...right }] = [
      place.hashes(run, 'checkpoints', LAST),
      place.hashes('whole', 'checkpoints', LAST),
    ];
    expect(Object.keys(left)).toEqual(['ema.safetensors', 'model.safetensors', 'optimizer.safetensors']);
    expect(left).toEqual(right);
    expect(place.metrics(run)).toEqual(place.metrics('whole'));
    expect(place.hashes(run)['model.safetensors']).toBe(place.hashes('whole')['model.safetensors']!);
    const kept = [20, 40, 60, 79, 80].map((step) => `step-000000${step}`);
    expect(readdirSync(place.at(run, 'checkpoints')).sort()).toEqual(kept);
  }
}, 300_000);
