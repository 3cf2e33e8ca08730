// Micro-batches that fit the memory, token budgets, and weight decay by the kind of a parameter.
import { describe, expect, test } from 'bun:test';
import { nullBackend } from '../../../src/backend/null.ts';
import { Failure } from '../../../src/io/failure.ts';
import { recipeToml, resolveRecipe } from '../../../src/recipe/resolve.ts';
import { recipeOfStage } from '../../../src/recipe/stages.ts';
import { networkOf } from '../../../src/sample/network.ts';
import { evenMicroBatches, fitMicroBatches, fitTogether, keepMicroBatches } from '../../../src/train/fit.ts';
import { microStepPlan, updatePlan } from '../../../src/train/step.ts';
import { stageWork } from '../../../src/train/work.ts';

const resolve = (...sets: string[]) => resolveRecipe({ sets: ['model.preset=nano', ...sets] }).recipe;
const backend = nullBackend();

describe('fit_micro_batch', () => {
  const stages = ['stage.0.mask_ratio=0.75', 'stage.1.mask_ratio=0', 'stage.1.input_size=16'];
  const recipe = resolve('train.batch_size=24', 'train.fit_micro_batch=true', ...stages);
  const bytes = (index: number, micro_batch: number) => {
    const row = { ...recipe.stage[index]!, micro_batch };
    const { step, update } = stageWork(recipe, row);
    const network = networkOf(recipeOfStage(recipe, row));
    const spaces = microStepPlan(network, step, backend.elemBytes).program.spaceBytes;
    const others = updatePlan(network.parameters, update, backend.elemBytes).program.spaceBytes;
    const names = new Set([...Object.keys(spaces), ...Object.keys(others)]);
    return [...names].reduce((sum, name) => sum + Math.max(spaces[name] ?? 0, others[name] ?? 0), 0);
  };
  const fit = (free: number) =>
    fitMicroBatches({ backend, recipe, tower: null, free }).stage.map((row) => row.micro_batch);

  test('gives each stage the largest divisor that fits into four fifths', () => {
    expect(fit(1e12)).toEqual([24, 24]);
    const exact = bytes(1, 6) / 0.8;
    expect(fit(exact + 8)).toEqual([24, 6]);
    expect(fit(exact - 8)).toEqual([24, 4]);
    expect(() => fit(1000)).toThrow(Failure);
    expect(() => fit(1000)).toThrow(/one image at a time needs/);
  });

  test('a run that has begun keeps its own', () => {
    const begun = fitMicroBatches({ backend, recipe, tower: null, free: bytes(1, 6) / 0.8 + 8 });
    const stored = resolveRecipe({ file: { name: 'recipe.toml', text: recipeToml(begun) } }).recipe;
    expect(stored).toEqual(begun);
    expect(keepMicroBatches(recipe, stored)).toEqual(begun);
    expect(stageWork(begun, begun.stage[1]!).step).toMatchObject({ batch: 6, passes: 4 });
  });

  test('ranks agree on the smallest, and end together where one has no room', async () => {
    const ranks = 3;
    const together = (free: readonly number[]) => {
      const rounds: { sums: number[]; waiting: (() => void)[] }[] = [];
      const asked = [0, 0, 0];
      const fits = free.map((bytes, rank) => {
        const sums = async (values: readonly number[]) => {
          const at = asked[rank]!++;
          rounds[at] ??= { sums: values.map(() => 0), waiting: [] };
          const round = rounds[at];
          round.sums = round.sums.map((sum, i) => sum + values[i]!);
          if (round.waiting.length < ranks - 1) await new Promise<void>((go) => round.waiting.push(go));
          else for (const go of round.waiting) go();
          return round.sums;
        };
        return fitTogether({ backend, recipe, tower: null, free: bytes }, { rank, ranks, sums });
      });
      return Promise.allSettled(fits);
    };
    const much = 1e12;
    const little = bytes(1, 2) / 0.8 + 8;
    for (const end of await together([much, little, much])) {
      expect(end.status === 'fulfilled' && end.value.stage.map((row) => row.micro_batch)).toEqual([8, 2]);
    }
    const ends = await together([much, 1000, much]);
    const why = (end: (typeof ends)[number]) => (end.status === 'rejected' ? String(end.reason) : '');
    expect(ends.map(why)).toEqual([
      expect.stringContaining('rank 1 may not take as much'),
      expect.stringContaining('8.00e-7 GB may be taken'),
      expect.stringContaining('rank 1 may not take as much'),
    ]);
  });

  test('passes that ranks cannot share out become the largest that they can', () => {
    const row = { ...recipe.stage[0]!, micro_batch: 8 };
    const even = (ranks: number) =>
      evenMicroBatches({ ...recipe, stage: [row] }, ranks).stage[0]!.micro_batch;
    expect([1, 2, 3, 4, 8].map(even)).toEqual([8, 6, 8, 6, 3]);
  });

  test('of this machine, without a number given', () => {
    expect(fitMicroBatches({ backend, recipe, tower: null }).stage[0]!.micro_batch).toBe(24);
  });
});

describe('batch_tokens', () => {
  // nano: 8 x 8 inputs in patches of 2 are 16 tokens.
  const stages = ['stage.0.mask_ratio=0.75', 'stage.1.mask_ratio=0', 'stage.2.batch_size=5'];
  const images = (...sets: string[]) => resolve(...stages, ...sets).stage.map(({ batch_size }) => batch_size);

  test('is images of each stage by the patches that its backbone sees', () => {
    expect(images('train.batch_tokens=256')).toEqual([64, 16, 5]);
    expect(images('train.batch_tokens=1')).toEqual([1, 1, 5]);
    expect(images()).toEqual([undefined, undefined, 5]);
    const again = resolve(...stages, 'train.batch_tokens=256');
    expect(resolveRecipe({ file: { name: 'r.toml', text: recipeToml(again) } }).recipe).toEqual(again);
  });

  test('comes in whole passes', () => {
    const sets = ['train.batch_tokens=250', 'train.micro_batch=12', 'stage.2.batch_size=24'];
    expect(images(...sets)).toEqual([60, 12, 24]);
    expect(() => images('train.micro_batch=4')).toThrow(/stage.2.batch_size.*5 is no multiple of/);
  });
});

describe('no_decay', () => {
  const recipe = resolve('optimizer.no_decay=norm,bias,embedding', 'stage.0.steps=1');
  const decays = (chosen: typeof recipe) => {
    const network = networkOf(chosen);
    const { update } = stageWork(chosen, chosen.stage[0]!);
    const parts = updatePlan(network.parameters, update, backend.elemBytes)
      .nodes.filter(({ op }) => op.name === 'adamw')
      .map(({ attrs, outputs }) => ({ decay: attrs.decay!, offset: outputs[0]!.storage.base }));
    const trained = network.parameters.list.filter(({ tags }) => !tags.frozen);
    return new Map(
      trained.map(({ name, base }) => [name, parts.findLast(({ offset }) => offset <= base)!.decay]),
    );
  };

  test('spares gains of norms, biases and the table of words, and nothing else', () => {
    const found = decays(recipe);
    const names = [...found].filter(([, decay]) => decay === 0).map(([name]) => name);
    const spared = [...found.keys()].filter((name) =>
      /norm.*weight$|map_\w+\.0\.weight$|bias$|^text_/.test(name),
    );
    expect(names).toEqual(spared);
    expect(spared.length).toBeGreaterThan(20);
    expect([...new Set(found.values())].sort()).toEqual([0, recipe.optimizer.weight_decay]);
  });

  test('by default everything decays; an unknown kind is refused', () => {
    const all = resolve('stage.0.steps=1');
    expect(new Set(decays(all).values())).toEqual(new Set([all.optimizer.weight_decay]));
    expect(() => resolve('optimizer.no_decay=gain')).toThrow(/gain is no kind of parameter/);
  });
});
