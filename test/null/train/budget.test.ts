// What a run takes: FLOPs of the paper's four stages, its price at its pace, memory, and what a machine
// means.
import { describe, expect, test } from 'bun:test';
import { findRecipe } from '../../../src/recipe/named.ts';
import { resolveRecipe } from '../../../src/recipe/resolve.ts';
import { type BudgetOptions, budgetOf } from '../../../src/train/budget.ts';
import { GPUS, machineOf } from '../../../src/train/hardware.ts';

const recipeOf = (name: string, ...sets: string[]) => resolveRecipe({ file: findRecipe(name), sets }).recipe;
const options = (change: Partial<BudgetOptions> = {}): BudgetOptions => ({
  recipe: recipeOf('micro-budget'),
  machine: machineOf('h100x8'),
  price: 30,
  mfu: 18.3,
  images: 37e6,
  ...change,
});
const near = (value: number, want: number, share = 0.01) => Math.abs(value / want - 1) < share;

describe('the run of the paper', () => {
  const published = budgetOf(options());

  test('takes its FLOPs, stage by stage', () => {
    const gflop = [282.1, 714.2, 1069, 3003];
    const eflop = [144.5, 43.9, 109.5, 30.7];
    expect(published.stages.map((s, i) => near(s.gflop_per_image, gflop[i]!))).toEqual(Array(4).fill(true));
    expect(published.stages.map((s, i) => near(s.eflop, eflop[i]!))).toEqual(Array(4).fill(true));
    expect(near(published.total.eflop, 328.6)).toBe(true);
    expect(published.parameters.total).toBe(1_165_442_320);
    expect(published.total).toMatchObject({ steps: 335_000, images: 335_000 * 2048 });
  });

  test('costs its price at its pace', () => {
    expect(published.speed).toBe('given');
    expect(near(published.total.dollars!, 1890)).toBe(true);
    expect(near(published.total.hours, 63)).toBe(true);
    expect(near(published.stages[0]!.images_per_s / 8, 642)).toBe(true);
  });

  test('fits an H100 with the micro-batches of the plan', () => {
    for (const { levels, bytes, micro_batch } of published.stages) {
      expect(levels.map(({ recompute }) => recompute)).toEqual(['none', 'cheap', 'blocks']);
      expect(levels.every((level) => 256 % level.micro_batch === 0)).toBe(true);
      expect(bytes).toBeLessThan(80e9 * 0.92);
      expect(micro_batch).toBeGreaterThanOrEqual(16);
    }
  });

  test('needs its disk: 7.35 TB of states, a fifth of that with token ids', () => {
    const data = published.data!;
    expect(near(data.bytes, 7.35e12)).toBe(true);
    expect(data.token_bytes / data.bytes).toBeLessThan(0.22);
    expect(data.q8_bytes / 37e6).toBe(2 * 4 * (32 ** 2 + 64 ** 2) + 83_776);
    expect(near(data.prepare_eflop, 53, 0.05)).toBe(true);
    expect(data.token_eflop / published.total.eflop).toBeWithin(0.08, 0.12);
  });
});

test('modelled speed: half of the published cost or less, on eight H100', () => {
  const { total, speed } = budgetOf(options({ mfu: null }));
  expect(speed).toBe('modelled');
  expect(total.dollars!).toBeWithin(650, 945);
});

test('the text tower within the step adds a tenth to the work', () => {
  const tiny = 'model.preset=MicroDiT_Tiny_2';
  const [states, clip] = ['states', 'clip'].map((encoder) => {
    return budgetOf(options({ recipe: recipeOf('micro-budget', tiny, `text.encoder=${encoder}`) }));
  });
  const more = clip!.stages.map((s, i) => s.gflop_per_image - states!.stages[i]!.gflop_per_image);
  for (const gflop of more) expect(gflop).toBeCloseTo(47.1, 6);
  expect(clip!.data!.bytes).toBe(states!.data!.token_bytes);
});

test('machines: a GPU of the table, and how many', () => {
  expect(machineOf('h100x8')).toEqual({ gpu: GPUS.h100!, count: 8 });
  expect(machineOf('RTX4090')).toEqual({ gpu: GPUS.rtx4090!, count: 1 });
  expect(machineOf('a100-40x2')).toMatchObject({ count: 2, gpu: { memory: 40e9 } });
  expect(() => machineOf('h10x8')).toThrow('--gpu h10x8: is no GPU that is known. Did you mean h100?');
  expect(() => machineOf('h100x0')).toThrow('Known: ');
});

test('a GPU that is too small is said to be: nothing fits', () => {
  const small = { gpu: GPUS.rtx3090!, count: 1 };
  const tiny = recipeOf('micro-budget', 'model.preset=MicroDiT_Tiny_2');
  const { stages } = budgetOf(
    options({ machine: { ...small, gpu: { ...small.gpu, memory: 2e9 } }, recipe: tiny }),
  );
  expect(stages.every(({ levels }) => levels.every(({ micro_batch }) => micro_batch === 0))).toBe(true);
});

test('a batch that GPUs cannot share out evenly takes as long as its largest share', () => {
  const at = (images: number, count: number) => {
    const machine = { gpu: GPUS.h100!, count };
    const recipe = recipeOf('tiny', `train.batch_size=${images}`);
    return budgetOf(options({ machine, recipe, mfu: null })).stages[0]!;
  };
  const [odd, even, few] = [at(20, 8), at(24, 8), at(3, 8)];
  expect([odd.micro_batch, even.micro_batch, few.micro_batch]).toEqual([3, 3, 1]);
  expect(odd.images_per_s).toBeCloseTo((even.images_per_s * 20) / 24, 3);
  expect(few.images_per_s).toBeCloseTo((at(8, 8).images_per_s * 3) / 8, 3);
});
