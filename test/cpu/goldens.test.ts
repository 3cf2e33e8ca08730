// The golden numbers of the diffusion transformer on both libraries: in float32 within the bounds of their
// README, in float64 to the rounding of the files. And mutants: what must be seen is seen.
import { afterAll, describe, expect, test } from 'bun:test';
import { mkdtempSync, readdirSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Backend, Launch } from '../../src/backend/backend.ts';
import { TRAINING } from '../../src/cli/verify.ts';
import type { GroupResult } from '../../src/eval/conformance.ts';
import { FLOAT32_BOUNDS, type MicroditBounds, verifyMicrodit } from '../../src/eval/microdit.ts';
import { bothBackends } from './op-case.ts';

const GOLDENS = new URL('../goldens/microdit', import.meta.url).pathname;
const folders: string[] = [];

afterAll(() => {
  for (const folder of folders) rmSync(folder, { recursive: true });
});

/** A folder with some of the golden files. */
function part(keep: (file: string) => boolean): string {
  const folder = mkdtempSync(join(tmpdir(), 'goldens-'));
  folders.push(folder);
  for (const file of readdirSync(GOLDENS).filter(keep)) symlinkSync(join(GOLDENS, file), join(folder, file));
  return folder;
}

const run = (dir: string, backend: Backend, bounds?: MicroditBounds): GroupResult[] => [
  ...verifyMicrodit(dir, { backend, training: TRAINING, ...(bounds ? { bounds } : {}) }),
];

const statusOf = (results: readonly GroupResult[]) =>
  Object.fromEntries(results.map(({ group, status }) => [group, status]));

const trained = (set: string, mask: string, kinds: readonly string[]) =>
  kinds.map((kind) => `${set} ${mask} ${kind}`);

const GROUPS = {
  nano: [
    ...['nano shapes', 'nano outputs', 'nano mask0 denoiser', 'nano mask0 losses, norms'],
    ...trained('nano', 'mask0', ['gradients']),
    ...trained('nano', 'mask75', ['denoiser', 'losses, norms', 'gradients']),
    ...trained('nano', 'mask75', ['parameters, 99.9 %', 'parameters, all']),
    ...['nano sampler', 'nano noise levels'],
  ],
  nanoBias: [
    ...['shapes', 'outputs', 'activations', 'routing'].map((kind) => `nano_bias ${kind}`),
    ...['mask0', 'mask75'].flatMap((mask) =>
      trained('nano_bias', mask, [
        ...['denoiser', 'losses, norms', 'gradients'],
        ...['parameters, 99.9 %', 'parameters, all'],
        ...(mask === 'mask0' ? ['EMA, 99.9 %', 'EMA, all'] : []),
      ]),
    ),
  ],
  files: ['positions', 'model shapes', 'learning rates'],
  torch: [
    ...['torch_zip.pt', 'torch_legacy.pt', 'composer_ckpt.pt', 'composer_ckpt_with_rng.pt'],
    ...['hostile_reduce.pt', 'hostile_badcrc.pt'],
  ],
  init: ['initial means', 'initial deviations', 'initial extremes', 'initial constants'],
};

const passes = (groups: readonly string[]) =>
  Object.fromEntries(groups.map((group) => [group, 'pass' as const]));

describe('goldens', () => {
  const all = part((file) => file !== 'init_stats.json');

  test('float32 within the bounds of the README', () => {
    const results = run(all, bothBackends().f32);
    const failed = results.filter(({ status }) => status !== 'pass');
    expect(failed).toEqual([]);
    expect(statusOf(results)).toEqual(
      passes([...GROUPS.nano, ...GROUPS.nanoBias, ...GROUPS.files, ...GROUPS.torch]),
    );
  });

  test('initial weights', () => {
    const results = run(
      part((file) => file === 'init_stats.json'),
      bothBackends().f32,
    );
    expect(statusOf(results)).toEqual(passes(GROUPS.init));
  });

  test('float64 to the rounding of the files', () => {
    const half = 2 ** -24; // of the last place of float32, for numbers below 2
    const tight = {
      ...{ outputs: half, scalars: half, gradients: half, latents: half, exact: 1e-14, positions: half },
      parameters: { most: half, all: half },
      averages: { most: half, all: half },
    };
    const results = run(
      part((file) => file !== 'init_stats.json'),
      bothBackends().f64,
      tight,
    );
    expect(results.filter(({ status }) => status !== 'pass')).toEqual([]);
  });
});

/** The float32 backend with some launches changed on their way, and how many were. */
function mutant(change: (launch: Launch) => Launch): { backend: Backend; changed: () => number } {
  const { f32 } = bothBackends();
  let changed = 0;
  const backend: Backend = {
    ...f32,
    load(program, regions) {
      const launches = program.launches.map((launch) => {
        const next = change(launch);
        if (next !== launch) changed += 1;
        return next;
      });
      return f32.load({ ...program, launches }, regions);
    },
  };
  return { backend, changed: () => changed };
}

const norms = ['norm_fwd', 'residual_norm_fwd'];
const replace = <T>(list: readonly T[], at: number, value: T) => list.with(at, value);

/** adaLN's scale and shift stand side by side in both fused norms, followed by the outputs. */
function swapModulation(launch: Launch): Launch {
  if (!norms.includes(launch.kernel)) return launch;
  const at = launch.kernel === 'norm_fwd' ? 2 : 4;
  const [scale = null, shift = null] = launch.pointers.slice(at, at + 2);
  if (!scale || !shift) return launch;
  return { ...launch, pointers: replace(replace(launch.pointers, at, shift), at + 1, scale) };
}

const real = (kernel: string, at: number, value: (old: number) => number) => (launch: Launch) =>
  launch.kernel === kernel
    ? { ...launch, reals: replace(launch.reals, at, value(launch.reals[at]!)) }
    : launch;

const MUTANTS: Record<string, { change: (launch: Launch) => Launch; sees: string }> = {
  'eps of every norm 1e-5': {
    change: (launch) => (norms.includes(launch.kernel) ? { ...launch, reals: [1e-5] } : launch),
    sees: 'nano_bias outputs',
  },
  'GELU of the experts in the tanh form': {
    change: (launch) => (launch.kernel === 'gelu_erf_fwd' ? { ...launch, kernel: 'gelu_tanh_fwd' } : launch),
    sees: 'nano_bias activations',
  },
  'scale and shift of adaLN swapped': { change: swapModulation, sees: 'nano_bias outputs' },
  'gradient of GELU in the tanh form': {
    change: (launch) => (launch.kernel === 'gelu_erf_bwd' ? { ...launch, kernel: 'gelu_tanh_bwd' } : launch),
    sees: 'nano_bias mask75 gradients',
  },
  'learning rate off by 1 %': {
    change: real('adamw', 1, (scale) => 1.01 * scale),
    sees: 'nano_bias mask75 parameters, 99.9 %',
  },
  'half the weight decay': {
    change: real('adamw', 0, (decay) => decay / 2),
    sees: 'nano_bias mask75 parameters, 99.9 %',
  },
  'beta2 0.99': { change: real('adamw', 3, () => 0.99), sees: 'nano_bias mask75 losses, norms' },
  'no clipping': {
    change: real('clip_scale', 0, () => Number.POSITIVE_INFINITY),
    sees: 'nano_bias mask75 parameters, 99.9 %',
  },
  'sigma_data off by 1e-4': {
    change: real('edm_loss', 0, (sigmaData) => sigmaData * (1 + 1e-4)),
    sees: 'nano_bias mask0 losses, norms',
  },
};

describe('mutants', () => {
  const dir = part((file) => file.startsWith('nano_bias.'));
  for (const [name, { change, sees }] of Object.entries(MUTANTS)) {
    test(name, () => {
      const { backend, changed } = mutant(change);
      const results = run(dir, backend, FLOAT32_BOUNDS);
      expect(changed()).toBeGreaterThan(0);
      expect(statusOf(results)[sees]).toBe('fail');
    });
  }
});
