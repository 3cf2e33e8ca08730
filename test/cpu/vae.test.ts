// The autoencoder: golden numbers on both libraries, mutants that must be seen, the three styles of names,
// and files and configs that do not fit.
import { afterAll, describe, expect, test } from 'bun:test';
import { readFileSync } from 'node:fs';
import type { Backend, Launch } from '../../src/backend/backend.ts';
import { FLOAT32_BOUNDS, type VaeBounds, verifyVae } from '../../src/eval/vae.ts';
import { Safetensors } from '../../src/io/safetensors.ts';
import { checkFinite, type TensorFile, Vae } from '../../src/sample/autoencoder.ts';
import { readVaeConfig, readVaeConfigFile, vaeFactor } from '../../src/vae/config.ts';
import { ldmName, oldName } from '../../src/vae/names.ts';
import { scaleLatents, unscaleLatents } from '../../src/vae/posterior.ts';
import { bothBackends, randomValues } from './op-case.ts';

const GOLDENS = new URL('../goldens/vae', import.meta.url).pathname;
const CONFIG = `${GOLDENS}/b_groups8.config.json`;
const WEIGHTS = `${GOLDENS}/b_groups8.weights.safetensors`;
const json: Record<string, unknown> = JSON.parse(readFileSync(CONFIG, 'utf8'));
const config = readVaeConfigFile(CONFIG);
const weights = Safetensors.open(WEIGHTS);
afterAll(() => weights.close());

const run = (backend: Backend, bounds: VaeBounds = FLOAT32_BOUNDS) => [
  ...verifyVae(GOLDENS, { backend, bounds }),
];
const status = (backend: Backend, bounds?: VaeBounds): Record<string, string> =>
  Object.fromEntries(run(backend, bounds).map((r) => [r.group.replace('b_groups8 ', ''), r.status]));

const ALL: Record<string, string> = {
  ...{ moments: 'pass', latents: 'pass', decoded: 'pass' },
  ...{ 'inner values': 'pass', gaussian: 'pass' },
};

describe('goldens', () => {
  test('float32 within the bounds of the README', () => {
    expect(status(bothBackends().f32)).toEqual(ALL);
  });

  test('float64 to the rounding of the files', () => {
    // The decoder begins with latents that the file rounds.
    const tight = { moments: 5e-7, latents: 5e-7, decoded: 2e-6, activations: 5e-7 };
    expect(status(bothBackends().f64, { ...FLOAT32_BOUNDS, ...tight })).toEqual(ALL);
  });
});

/** The float32 backend with some launches changed on their way. */
function mutant(change: (launch: Launch) => Launch): Backend {
  const { f32 } = bothBackends();
  return {
    ...f32,
    load: (program, regions) => f32.load({ ...program, launches: program.launches.map(change) }, regions),
  };
}

const reals = (kernel: string, values: number[]) => (l: Launch) =>
  l.kernel === kernel ? { ...l, reals: values } : l;

describe('mutants', () => {
  test.each([
    [
      'symmetric padding before stride 2',
      'moments',
      (l: Launch) => (l.kernel === 'im2col' && l.ints[7] === 2 ? { ...l, ints: l.ints.with(8, 1) } : l),
    ],
    ['eps 1e-5', 'moments', reals('group_merge', [1e-5])],
    ['no scale of attention', 'moments', reals('softmax_rows', [1])],
    [
      'no silu',
      'decoded',
      (l: Launch) => (l.kernel === 'group_apply' ? { ...l, ints: l.ints.with(2, 0) } : l),
    ],
  ])('%s', (_, sees, change) => {
    expect(status(mutant(change))[sees]).toBe('fail');
  });
});

/** The golden weights under other names; attention as 1x1 convolutions where `square`. */
function renamed(name: (n: string) => string, square = false, more: string[] = []): TensorFile {
  const original = new Map([...weights.tensors.keys()].map((n) => [name(n), n]));
  const shape = (n: string) => {
    const { shape } = weights.entry(n);
    return square && shape.length === 2 ? [...shape, 1, 1] : shape;
  };
  const entries = [...original].map(([to, from]) => [to, { shape: shape(from) }] as const);
  return {
    path: 'renamed.safetensors',
    tensors: new Map([...entries, ...more.map((n) => [n, { shape: [3] }] as const)]),
    readFloat32: (n) => weights.readFloat32(original.get(n)!),
    readFloat64: (n) => weights.readFloat64(original.get(n)!),
  };
}

const LATENT = { height: 3, width: 5 };
const latent = randomValues(4 * LATENT.height * LATENT.width, 3);

function decoded(file: TensorFile): ArrayLike<number> {
  const vae = Vae.load(bothBackends().f32, config, file);
  const picture = vae.decode(latent, LATENT);
  vae.free();
  return picture;
}

describe('names', () => {
  test.each<[string, TensorFile]>([
    ['before 2023', renamed(oldName)],
    ['LDM', renamed((n) => ldmName(n, 4), true, ['loss.logvar', 'model_ema.decay'])],
    ['LDM inside a checkpoint', renamed((n) => `first_stage_model.${ldmName(n, 4)}`, true, ['model.x'])],
    ['inside a pipeline', renamed((n) => `vae.${n}`)],
  ])('%s', (_, file) => {
    expect(decoded(file)).toEqual(decoded(weights));
  });

  test('of the LDM code', () => {
    const names = {
      'encoder.down_blocks.1.resnets.0.conv_shortcut.weight': 'encoder.down.1.block.0.nin_shortcut.weight',
      'encoder.down_blocks.0.downsamplers.0.conv.bias': 'encoder.down.0.downsample.conv.bias',
      'encoder.mid_block.attentions.0.to_out.0.weight': 'encoder.mid.attn_1.proj_out.weight',
      'encoder.mid_block.attentions.0.group_norm.weight': 'encoder.mid.attn_1.norm.weight',
      'decoder.mid_block.resnets.1.norm1.weight': 'decoder.mid.block_2.norm1.weight',
      'decoder.up_blocks.0.resnets.2.conv1.weight': 'decoder.up.3.block.2.conv1.weight',
      'decoder.up_blocks.2.upsamplers.0.conv.weight': 'decoder.up.1.upsample.conv.weight',
      'decoder.conv_norm_out.bias': 'decoder.norm_out.bias',
      'post_quant_conv.weight': 'post_quant_conv.weight',
    };
    for (const [ours, theirs] of Object.entries(names)) expect(ldmName(ours, 4)).toBe(theirs);
  });
});

describe('what does not fit', () => {
  const load = (file: TensorFile) => () => Vae.load(bothBackends().f32, config, file).free();
  test('files', () => {
    const without = renamed((n) => (n === 'decoder.conv_out.bias' ? 'x' : n));
    expect(load(without)).toThrow('tensor decoder.conv_out.bias is missing');
    expect(load(renamed((n) => n, false, ['encoder.extra']))).toThrow('encoder.extra does not belong');
    const wrong = readVaeConfig({ ...json, latent_channels: 16 }, 'config.json');
    expect(() => Vae.load(bothBackends().f32, wrong, weights)).toThrow(/has shape \[.*\], the config needs/);
  });

  test.each([
    [{ scaling_factor: undefined }, 'scaling_factor: is missing'],
    [{ _class_name: 'VQModel' }, 'not AutoencoderKL'],
    [{ act_fn: 'relu' }, 'must be silu'],
    [{ block_out_channels: [8, 12] }, 'multiples of norm_num_groups'],
    [{ block_out_channels: [] }, 'multiples of norm_num_groups'],
    [{ down_block_types: ['AttnDownEncoderBlock2D'] }, 'only DownEncoderBlock2D'],
    [{ layers_per_block: 1e9 }, 'whole number'],
    [{ latents_std: [1, 2] }, 'must be 4 numbers'],
    [{ use_quant_conv: 'no' }, 'true or false'],
  ])('config %j', (change, why) => {
    expect(() => readVaeConfig({ ...json, ...change }, 'config.json')).toThrow(why);
  });

  test('a latent of other size, a picture that is no number', () => {
    const vae = Vae.load(bothBackends().f32, config, weights);
    expect(() => vae.decode(latent, { height: 4, width: 5 })).toThrow('input x: got 60 values');
    expect(() => vae.encode(new Float32Array(3 * 49), { height: 7, width: 7 })).toThrow(
      'less than one latent',
    );
    expect(() => vae.decode(latent.with(7, Number.NaN), LATENT)).toThrow('are not finite');
    vae.free();
    expect(() => checkFinite(Float32Array.of(1, Number.POSITIVE_INFINITY))).toThrow('1 of 2 values');
  });
});

test('shift and per-channel numbers of a config', () => {
  const shifted = readVaeConfig({ ...json, shift_factor: 0.1 }, 'config.json');
  expect([...scaleLatents(shifted, [1, 1], 2)]).toEqual([0.9 * 0.13025, 0.9 * 0.13025].map(Math.fround));
  const channels = { latents_mean: [0, 1, 2, 3], latents_std: [1, 2, 4, 8] };
  const own = readVaeConfig({ ...json, ...channels }, 'config.json');
  const z = Float32Array.from({ length: 8 }, (_, i) => i - 3);
  const back = unscaleLatents(own, scaleLatents(own, z, 2), 2);
  for (const [i, v] of z.entries()) expect(back[i]).toBeCloseTo(v, 5);
  expect(scaleLatents(own, z, 2)[7]).toBeCloseTo(((4 - 3) * 0.13025) / 8, 7);
  expect(vaeFactor(own)).toBe(8);
});
