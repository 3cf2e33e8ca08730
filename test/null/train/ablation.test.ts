// The cells of an ablation: equal FLOPs, one thing different, and a smaller model that costs what masking
// does.
import { describe, expect, test } from 'bun:test';
import { findRecipe } from '../../../src/recipe/named.ts';
import { resolveRecipe } from '../../../src/recipe/resolve.ts';
import { CELL_NAMES, cellsOf, spentEflop } from '../../../src/train/ablation.ts';

const recipeOf = (name: string, ...sets: string[]) => resolveRecipe({ file: findRecipe(name), sets }).recipe;
const { recipe } = { recipe: recipeOf('emoji') };
const cells = cellsOf({ recipe, steps: 1000, finetune: 0.2, points: 5 }, CELL_NAMES);
const cell = (name: string) => cells.find((one) => one.name === name)!;

describe('cells', () => {
  test('spend equal FLOPs, a fifth of them without a mask', () => {
    const all = cells.map((one) => spentEflop(one, one.recipe.stage[0]!.steps + one.recipe.stage[1]!.steps));
    for (const eflop of all) expect(Math.abs(eflop / all[0]! - 1)).toBeLessThan(0.005);
    for (const one of cells) {
      const masked = spentEflop(one, one.recipe.stage[0]!.steps);
      expect(masked / all[0]!).toBeCloseTo(0.8, 2);
    }
  });

  test('are measured at the same shares of the work, the end of masking among them', () => {
    for (const { recipe } of cells) {
      const [masked] = recipe.stage;
      const every = recipe.train.checkpoint_every as number;
      expect(masked!.steps - 4 * every).toBeGreaterThanOrEqual(0);
      expect(masked!.steps - 4 * every).toBeLessThan(4);
    }
  });

  test('that the model has no mixer for are refused before any is trained', () => {
    const bare = recipeOf('emoji', 'model.use_patch_mixer=false', 'model.masking=naive');
    const of = (name: string) =>
      cellsOf({ recipe: bare, steps: 100, finetune: 0.2, points: 2 }, ['naive-75', name]);
    expect(() => of('deferred-50')).toThrow('cell deferred-50: masks behind the patch-mixer');
    expect(of('unmasked').length).toBe(2);
  });

  test('without an unmasked end the learning rate decays under the mask', () => {
    const [one] = cellsOf({ recipe, steps: 1000, finetune: 0, points: 5 }, ['naive-75']);
    expect(one!.recipe.stage).toMatchObject([
      { name: 'masked', mask_ratio: 0.75, schedule: 'warmup-cosine', alpha_f: 0.02 },
    ]);
    expect(one!.recipe.train.checkpoint_every).toBe(Math.floor(one!.recipe.stage[0]!.steps / 5));
  });

  test('differ in masking as they say', () => {
    const told = cells.map(({ name, recipe: { model, stage } }) => [
      name,
      model.masking,
      stage[0]!.mask_ratio,
    ]);
    expect(Object.fromEntries(told.map(([name, ...rest]) => [name, rest]))).toMatchObject({
      'deferred-75': ['deferred', 0.75],
      'naive-25': ['naive', 0.25],
      unmasked: ['none', 0],
      smaller: ['none', 0],
    });
    expect(cells.every((one) => one.recipe.stage[1]!.mask_ratio === 0)).toBe(true);
  });

  test('naive masking is cheaper an image, so it sees more of them', () => {
    const [deferred, naive] = [cell('deferred-75'), cell('naive-75')];
    expect(naive.flops[0]).toBeLessThan(0.7 * deferred.flops[0]);
    expect(naive.recipe.stage[0]!.steps).toBeGreaterThan(1.4 * deferred.recipe.stage[0]!.steps);
    expect(naive.flops[1]).toBe(deferred.flops[1]);
    expect(naive.parameters).toBe(deferred.parameters);
  });

  test('the smaller model costs what masking does', () => {
    const { flops, parameters } = cell('smaller');
    expect(Math.abs(flops[0] / cell('deferred-75').flops[0] - 1)).toBeLessThan(0.1);
    expect(parameters).toBeLessThan(0.8 * cell('unmasked').parameters);
  });

  test('without experts, and with even widths', () => {
    expect(cell('no-experts').parameters).toBeLessThan(cell('deferred-75').parameters);
    expect(cell('even-widths').recipe.model.qkv_multipliers).toEqual([0.75]);
  });

  test('learn from what the first stage learns from', () => {
    const [row] = recipe.data.source;
    const source = [
      { ...row!, stages: [1] },
      { ...row!, count: 7, stages: [2] },
    ];
    const two = { ...recipe, data: { ...recipe.data, source } };
    const [one] = cellsOf({ recipe: two, steps: 10, finetune: 0.2, points: 2 }, ['smaller']);
    expect(one!.recipe.data.source).toEqual([{ ...row!, stages: undefined }]);
  });

  test("keep the first stage's learning rate and images a step", () => {
    const stage = [{ ...recipe.stage[0]!, lr: 3e-4, batch_size: 7 }, ...recipe.stage.slice(1)];
    const options = { recipe: { ...recipe, stage }, steps: 1000, finetune: 0.2, points: 5 };
    const [deferred, naive] = cellsOf(options, ['deferred-75', 'naive-75']);
    const rows = deferred!.recipe.stage;
    expect(rows.map(({ lr, batch_size }) => [lr, batch_size])).toEqual([
      [3e-4, 7],
      [3e-4, 7],
    ]);
    expect(rows[0]!.steps).toBe(1000);
    const spent = [deferred!, naive!].map((one) => spentEflop(one, one.recipe.stage[0]!.steps));
    expect(Math.abs(spent[1]! / spent[0]! - 1)).toBeLessThan(0.005);
    expect((spent[0]! / 1000) * (32 / 7)).toBeCloseTo(spentEflop(cell('deferred-75'), 1000) / 1000, 12);
  });

  test('other names are refused', () => {
    expect(() => cellsOf({ recipe, steps: 1, finetune: 0.5, points: 1 }, ['deferd'])).toThrow(
      'cell deferd: is not known. Cells: deferred-75, ',
    );
  });
});
