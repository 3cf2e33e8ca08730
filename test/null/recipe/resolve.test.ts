// Recipes: precedence, --set of each kind, formats, misspelt keys, wrong types, checks over several keys, the
// way back.

import { describe, expect, test } from 'bun:test';
import { Failure } from '../../../src/io/failure.ts';
import { readInterval } from '../../../src/recipe/field.ts';
import { findRecipe, NAMED } from '../../../src/recipe/named.ts';
import { presetRows } from '../../../src/recipe/presets.ts';
import { recipeReference } from '../../../src/recipe/reference.ts';
import { type RecipeSources, recipeToml, resolveRecipe } from '../../../src/recipe/resolve.ts';
import { allKeys, findField } from '../../../src/recipe/schema.ts';
import {
  imagesOfSteps,
  recipeOfStage,
  shortStages,
  totalSteps,
  withTotalSteps,
} from '../../../src/recipe/stages.ts';

const file = (text: string, name = 'my.toml') => ({ file: { name, text } });
const resolve = (sources: RecipeSources) => resolveRecipe(sources).recipe;

function failure(sources: RecipeSources): string {
  try {
    resolveRecipe(sources);
  } catch (error) {
    expect(error).toBeInstanceOf(Failure);
    expect((error as Failure).code).toBe(2);
    expect((error as Failure).message).not.toContain('\n');
    return (error as Failure).message;
  }
  throw new Error('resolved, but should not');
}

describe('precedence', () => {
  const text = '[model]\npreset = "nano"\ndepth = 4\nqkv_multipliers = [1]\nffn_multipliers = [2]';
  test('default < preset < file < environment < flag', () => {
    expect(resolve({}).model.dim).toBe(1152);
    expect(resolve(file(text)).model.dim).toBe(32);
    expect(resolve(file(text)).model.depth).toBe(4);
    const env = { MICRODIFF_MODEL_DEPTH: '6', MICRODIFF_DIFFUSION_P_MEAN: '-1' };
    expect(resolve({ ...file(text), env }).model.depth).toBe(6);
    expect(resolve({ ...file(text), env }).diffusion.P_mean).toBe(-1);
    expect(resolve({ ...file(text), env, sets: ['model.depth=8'] }).model.depth).toBe(8);
    const flags = [{ origin: '--depth', values: { model: { depth: 10 } } }];
    expect(resolve({ ...file(text), env, sets: ['model.depth=8'], flags }).model.depth).toBe(10);
  });

  test('the preset may come from any layer, and is still the lowest', () => {
    const recipe = resolve({ ...file('[model]\ndim = 64'), sets: ['model.preset=nano'] });
    expect([recipe.model.dim, recipe.model.patch_mixer_dim]).toEqual([64, 24]);
  });

  test('a list of a higher layer replaces the whole list; an index changes an entry or adds the next', () => {
    const stages = '[[stage]]\nsteps = 10\nmask_ratio = 0.5\n[[stage]]\nsteps = 5';
    const recipe = resolve({ ...file(stages), sets: ['stage.0.steps=7', 'stage[2].steps=3'] });
    expect(recipe.stage.map((s) => [s.steps, s.mask_ratio])).toEqual([
      [7, 0.5],
      [5, 0],
      [3, 0],
    ]);
    const flags = [{ origin: '--steps', values: { stage: [{ steps: 1 }] } }];
    expect(resolve({ ...file(stages), flags }).stage.length).toBe(1);
    expect(failure({ ...file(stages), sets: ['stage.3.steps=7'] })).toContain('stage has 2 entries');
    expect(resolve({ ...file(stages), env: { MICRODIFF_STAGE_1_STEPS: '9' } }).stage[1]!.steps).toBe(9);
  });

  test('origins say where each value came from', () => {
    const { origins } = resolveRecipe({ ...file(text), sets: ['train.seed=3'] });
    expect(origins.get('model.dim')).toBe('preset nano');
    expect(origins.get('model.depth')).toBe('my.toml');
    expect(origins.get('train.seed')).toBe('--set');
    expect(origins.has('optimizer.lr')).toBe(false);
  });
});

describe('--set is typed by the schema', () => {
  test.each([
    ['train.seed=0', ['train', 'seed'], 0],
    ['train.seed=9007199254740991', ['train', 'seed'], 2 ** 53 - 1],
    ['optimizer.lr=1e-3', ['optimizer', 'lr'], 1e-3],
    ['diffusion.P_mean=-1.2', ['diffusion', 'P_mean'], -1.2],
    ['model.use_bias=false', ['model', 'use_bias'], false],
    ['schedule.kind=constant', ['schedule', 'kind'], 'constant'],
    ['train.preview_every=90s', ['train', 'preview_every'], '90s'],
    ['train.preview_every=25', ['train', 'preview_every'], 25],
    ['train.preview_prompts=a red apple, a dog', ['train', 'preview_prompts'], ['a red apple', 'a dog']],
    ['train.preview_prompts=["a, b", "c=d"]', ['train', 'preview_prompts'], ['a, b', 'c=d']],
  ])('%s', (set, [table, key], value) => {
    const recipe = resolve({ sets: [set] }) as unknown as Record<string, Record<string, unknown>>;
    expect(recipe[table!]![key!]).toEqual(value);
  });

  test('lists of numbers', () => {
    const sets = ['model.depth=2', 'model.qkv_multipliers=0.5,1', 'model.ffn_multipliers=[0.5, 4]'];
    expect(resolve({ sets }).model.ffn_multipliers).toEqual([0.5, 4]);
  });

  test.each([
    ['train.seed=1.5', 'a whole number from 0, got "1.5"'],
    ['train.seed=-1', 'a whole number from 0, got "-1"'],
    ['train.seed=9007199254740992', 'a whole number from 0'],
    ['optimizer.lr=fast', 'expected a number from 0, got "fast"'],
    ['optimizer.lr=nan', 'expected a number'],
    ['optimizer.lr=', 'expected a number'],
    ['optimizer.lr=0x10', 'expected a number'],
    ['model.use_bias=yes', 'expected true or false, got "yes"'],
    ['schedule.kind=cosin', 'expected one of constant, warmup-constant, warmup-cosine, got "cosin"'],
    ['train.preview_every=10 minutes', 'a number of steps or a time such as "10m"'],
    ['model.qkv_multipliers=1,x', 'a list of numbers'],
    ['optimizer.lr', 'expected key=value'],
    ['=3', 'expected key=value'],
  ])('refuses %s', (set, message) => {
    expect(failure({ sets: [set] })).toContain(message);
  });
});

describe('formats', () => {
  test('TOML, YAML and JSONC give the same recipe', () => {
    const toml =
      '[model]\npreset="nano"\n[optimizer]\nlr=1e-3\n[[stage]]\nsteps=3\n[[data.source]]\nname="shapes"';
    const yaml =
      'model: {preset: nano}\noptimizer:\n  lr: 1e-3\nstage:\n- steps: 3\n' +
      'data:\n  source:\n  - name: shapes\n';
    const json =
      '{"model": {"preset": "nano"}, /* c */ "optimizer": {"lr": 0.001}, "stage": [{"steps": 3},],' +
      '"data": {"source": [{"name": "shapes"}]}}';
    const recipe = resolve(file(toml));
    expect(recipe.optimizer.lr).toBe(1e-3);
    expect(resolve(file(yaml, 'my.yaml'))).toEqual(recipe);
    expect(resolve(file(json, 'my.jsonc'))).toEqual(recipe);
    expect(resolve(file(`\uFEFF${toml}`))).toEqual(recipe);
  });

  test('broken files and other names are refused', () => {
    expect(failure(file('[model\n'))).toMatch(/^my\.toml: TOML Parse error/);
    expect(failure(file('a: [1\nb: 2', 'my.yml'))).toContain('my.yml: YAML Parse error');
    expect(failure(file('{', 'my.json'))).toContain('my.json: JSONC Parse error');
    expect(failure(file('', 'my.ini'))).toContain('Recipes end in .toml');
    expect(failure(file('[1]', 'my.json'))).toContain('not tables');
  });

  test('a resolved recipe written as TOML resolves to itself', () => {
    for (const name of Object.keys(NAMED)) {
      const recipe = resolve({ file: findRecipe(name) });
      expect(resolve(file(recipeToml(recipe)))).toEqual(recipe);
    }
  });
});

describe('unknown keys name the file and the nearest key', () => {
  test.each([
    ['[optimizer]\nlrr = 1', 'optimizer.lrr in my.toml: unknown key. Did you mean optimizer.lr?'],
    ['[model]\nlr = 1', 'model.lr in my.toml: unknown key. Did you mean optimizer.lr or stage.0.lr?'],
    ['lr = 1', 'lr in my.toml: unknown key. Did you mean optimizer.lr or stage.0.lr?'],
    ['[optimiser]\nlr = 1', 'optimiser in my.toml: unknown key. Did you mean optimizer?'],
    ['[train]\nsteps = 5', 'Did you mean sample.steps or stage.0.steps?'],
    ['base = "tiny"', 'base in my.toml: unknown key. See microdiff help recipe'],
    ['[diffusion]\np_mean = 1', 'diffusion.p_mean in my.toml: unknown key. Did you mean diffusion.P_mean?'],
    ['[[stage]]\nstep = 1', 'stage.0.step in my.toml: unknown key. Did you mean stage.0.steps?'],
    ['[[stage]]\n[[stage]]\nmask = 1', 'Did you mean stage.1.mask_ratio?'],
    ['[[data.source]]\nnmae = "x"', 'Did you mean data.source.0.name?'],
    ['[model]\n__proto__ = 1', 'unknown key'],
    ['[model]\nconstructor = 1', 'unknown key'],
    ['[zzzzzz]\na = 1', 'zzzzzz in my.toml: unknown key. See microdiff help recipe'],
  ])('%j', (text, message) => {
    expect(failure(file(text))).toContain(message);
  });

  test('in --set and in the environment', () => {
    expect(failure({ sets: ['stage.steps=5'] })).toContain('stage is a list: say stage.0.steps');
    expect(failure({ sets: ['train.batchsize=5'] })).toContain('Did you mean train.batch_size?');
    expect(failure({ env: { MICRODIFF_TRAIN_SEDE: '1' } })).toContain('Did you mean MICRODIFF_TRAIN_SEED?');
    expect(resolve({ env: { MICRODIFF_LIBRARY: 'x', PATH: 'y' } }).train.seed).toBe(0);
  });

  test('presets and recipe names', () => {
    expect(failure({ sets: ['model.preset=nanoo'] })).toContain('Did you mean nano?');
    expect(failure({ sets: ['model.preset=toString'] })).toContain('there is no preset');
    expect(() => findRecipe('quikstart')).toThrow('Did you mean quickstart?');
  });
});

describe('wrong types say what was expected and what came', () => {
  test.each([
    ['[model]\ndim = "wide"', 'model.dim in my.toml: expected a whole number from 1, got the text "wide"'],
    ['[model]\ndim = 1.5', 'expected a whole number from 1, got 1.5'],
    ['[optimizer]\nlr = true', 'expected a number from 0, got true'],
    ['[optimizer]\nlr = inf', 'expected a number from 0, got Infinity'],
    ['[model]\nuse_bias = 1', 'expected true or false, got 1'],
    ['[model]\nqkv_multipliers = 1', 'expected a list of numbers from 0, got 1'],
    ['[train]\npreview_prompts = [1]', 'expected a list of texts, got the list [1]'],
    ['model = 3', 'model in my.toml: expected a table, got 3. Write [model] above its keys'],
    ['[[data]]\nname = "emoji"', 'expected a table, got a list. Write [[data.source]] for each entry'],
    ['[stage]\nsteps = 3', 'expected a list of tables, got a table. Write [[stage]] for each entry'],
    ['stage = [1]', 'stage.0 in my.toml: expected a table, got 1'],
  ])('%j', (text, message) => {
    expect(failure(file(text))).toContain(message);
  });
});

describe('keys that do not go together', () => {
  test.each([
    [['model.input_size=33'], 'model.input_size in --set: 33 is no multiple of model.patch_size 2'],
    [['model.dim=100'], 'no multiple of model.head_dim 64'],
    [['model.qkv_multipliers=1,1'], 'model.ffn_multipliers in defaults: 1 numbers'],
    [['model.qkv_multipliers=1,1,1', 'model.ffn_multipliers=1,1,1'], '3 numbers cannot be shared out'],
    [['text.channels=4'], 'text.channels in --set: 4, but model.caption_channels is 1024'],
    [['image.size=64'], 'image.size in --set: 64, but model.input_size is 32'],
    [['diffusion.sigma_min=90'], 'not below sigma_max'],
    [['train.micro_batch=48'], '48 does not divide train.batch_size 64'],
    [['model.use_patch_mixer=false', 'stage.0.mask_ratio=0.5'], 'Say model.masking = "naive"'],
    [['data.source.0.weight=0'], 'every source has weight 0'],
  ])('%j', (sets, message) => {
    expect(failure({ sets })).toContain(message);
  });

  test('following keys take the value of the key that they follow', () => {
    const recipe = resolve({
      sets: ['model.caption_channels=48', 'model.in_channels=3', 'model.input_size=64'],
    });
    expect([recipe.text.channels, recipe.image.channels, recipe.image.size]).toEqual([48, 3, 64]);
  });
});

describe('tables', () => {
  test('every default fits its own row, and every key is found again', () => {
    for (const key of allKeys()) {
      const row = findField(key)!;
      expect(row.meaning.length).toBeGreaterThan(5);
      if (row.default === undefined) continue;
      const written = Array.isArray(row.default) ? JSON.stringify(row.default) : String(row.default);
      if (row.kind !== 'reals' && !key.includes('weight')) resolve({ sets: [`${key}=${written}`] });
    }
    expect(resolve({ sets: ['stage.0.steps=1'] }).stage[0]).toMatchObject({ steps: 1, mask_ratio: 0 });
  });

  test('presets resolve; those of the reference have its multipliers', () => {
    for (const preset of Object.keys(presetRows)) resolve({ sets: [`model.preset=${preset}`] });
    const { model } = resolve({ sets: ['model.preset=MicroDiT_Tiny_2'] });
    expect(model.qkv_multipliers.length).toBe(16);
    // np.linspace(0.5, 1.0, 16)[[1, 7, 15]] and np.linspace(0.5, 4.0, 16)[[1, 7, 15]]
    expect([1, 7, 15].map((i) => model.qkv_multipliers[i])).toEqual([
      0.5333333333333333, 0.7333333333333334, 1,
    ]);
    expect([1, 7, 15].map((i) => model.ffn_multipliers[i])).toEqual([
      0.7333333333333334, 2.1333333333333333, 4,
    ]);
  });

  test('recipes/README.md is the reference that the schema makes', async () => {
    expect(await Bun.file(`${import.meta.dir}/../../../recipes/README.md`).text()).toBe(recipeReference());
  });
});

describe('stages', () => {
  const recipe = resolve(
    file(
      '[[stage]]\nsteps = 70\nmask_ratio = 0.5\nlr = 1e-5\n' +
        '[[stage]]\nsteps = 30\nP_mean = 0.0\nbatch_size = 8',
    ),
  );

  test('a stage puts its keys in the place of those they stand for', () => {
    const first = recipeOfStage(recipe, recipe.stage[0]!);
    const second = recipeOfStage(recipe, recipe.stage[1]!);
    expect([first.optimizer.lr, first.diffusion.P_mean, first.train.batch_size]).toEqual([1e-5, -0.6, 64]);
    expect([second.optimizer.lr, second.diffusion.P_mean, second.train.batch_size]).toEqual([2.4e-4, 0, 8]);
    const none = resolve({ ...file('[[stage]]\nmask_ratio = 0.5'), sets: ['model.masking=none'] });
    expect(recipeOfStage(none, none.stage[0]!).stage[0]!.mask_ratio).toBe(0);
  });

  test.each([1, 2, 8, 10, 99, 100, 12345])('shortened or stretched to %d steps', (total) => {
    const other = withTotalSteps(recipe, total);
    expect(totalSteps(other)).toBe(total);
    expect(other.stage.every((stage) => stage.steps > 0)).toBe(true);
  });

  test('sources follow the stages that they are for where others are left with no steps', () => {
    const stages = [20, 2, 10].map((steps) => `[[stage]]\nsteps = ${steps}\n`).join('');
    const rows = [[1, 2], [2], [3]].map((of) => `[[data.source]]\nname="shapes"\nstages=[${of}]\n`).join('');
    const short = withTotalSteps(resolve(file(rows + stages)), 4);
    expect(short.stage.map(({ steps }) => steps)).toEqual([3, 1]);
    expect(short.data.source.map((row) => row.stages)).toEqual([[1], [2]]);
    expect(resolve(file(recipeToml(short)))).toEqual(short);
  });

  test('images of the first steps', () => {
    expect([0, 1, 70, 71, 100].map((steps) => imagesOfSteps(recipe, steps))).toEqual([
      0, 64, 4480, 4488, 4720,
    ]);
  });

  test.each([
    ['stage.1.mask_ratio=0.99', 'stage.1.mask_ratio in --set: mask_ratio: 0.99 of 16 patches leaves 0'],
    ['model.expert_capacity=0.1', 'expert_capacity: 0.1 with 4 experts gives each 0 of 16 tokens'],
  ])('a stage that cannot be is refused before any is trained: %s', (set, message) => {
    const tiny = { file: { name: 'tiny.toml', text: NAMED.tiny! }, sets: [set] };
    expect(() => resolveRecipe(tiny)).toThrow(message);
  });

  test('stages that end within their warm-up are told', () => {
    const warm = '[schedule]\nwarmup_steps = 10\n[[stage]]\nsteps = 9\n[[stage]]\nsteps = 10';
    const made = resolve(file(warm));
    const words =
      'stage 1: its 9 steps end within the warm-up of 10; --set stage.0.warmup_steps=1 shortens it';
    expect(shortStages(made)).toEqual([words]);
    expect(shortStages(resolve({ ...file(warm), sets: ['schedule.kind=constant'] }))).toEqual([]);
  });

  test('intervals', () => {
    expect([readInterval(25), readInterval('10m'), readInterval('1.5h')]).toEqual([
      { steps: 25 },
      { seconds: 600 },
      { seconds: 5400 },
    ]);
  });
});
