// Conformance of the autoencoder with a folder of golden sets: moments, latents, pictures, inner values.
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Backend } from '../backend/backend.ts';
import { Failure } from '../io/failure.ts';
import { Safetensors } from '../io/safetensors.ts';
import { type Size, Vae } from '../sample/autoencoder.ts';
import { readVaeConfigFile } from '../vae/config.ts';
import { type Posterior, posterior, samplePosterior } from '../vae/posterior.ts';
import { attempt, Group, type GroupResult, maxAbs, relMax, relRms, skipped } from './conformance.ts';

/** What each kind of number may be off by (golden README of this part). */
export interface VaeBounds {
  /** Moments, mean, logvar; latents; pictures: absolute. */
  readonly moments: number;
  readonly latents: number;
  readonly decoded: number;
  /** Inner values: max |a - b| / max |b|. */
  readonly activations: number;
  /** The distribution alone: relative, number by number. */
  readonly gaussian: number;
  /**
   * Where the backend rounds to bfloat16, of all of them: sqrt(mean (a - b)^2 / mean b^2). The README allows
   * 0.08 for moments, of which PyTorch's own bfloat16 takes 0.016 to 0.039; pictures and inner values go
   * through as many roundings. Emulated, ours takes 0.017 to 0.026 of all.
   */
  readonly rounded: number;
}

export const FLOAT32_BOUNDS: VaeBounds = {
  ...{ moments: 5e-5, latents: 3e-5, decoded: 1e-4, activations: 1e-5, gaussian: 1e-6, rounded: 0.08 },
};

export interface VaeOptions {
  readonly backend: Backend;
  readonly bounds?: VaeBounds;
}

const CONFIG = '.config.json';
const WEIGHTS = '.weights.safetensors';

/** Every group of a folder, in order, as it is done. */
export function* verifyVae(dir: string, options: VaeOptions): Generator<GroupResult> {
  const files = readdirSync(dir).sort();
  const names = files.filter((file) => file.endsWith(CONFIG)).map((file) => file.slice(0, -CONFIG.length));
  // `a.b.weights` belongs to the set `a.b` where there is one, else to `a`.
  const setOf = (file: string) =>
    names.filter((name) => file.startsWith(`${name}.`)).sort((a, b) => b.length - a.length)[0];
  for (const name of names) {
    const config = name + CONFIG;
    const weights = files.filter((file) => file.endsWith(WEIGHTS) && setOf(file) === name);
    const io = join(dir, `${name}.io.safetensors`);
    if (weights.length === 0 || !existsSync(io)) yield skipped(name, 'needs an io file and weights');
    else for (const file of weights) yield* verifySet(dir, { config, io, weights: file }, options);
  }
  const clamp = join(dir, 'gaussian_clamp.safetensors');
  if (!existsSync(clamp)) return;
  yield* attempt('gaussian', () => [checkGaussian(clamp, options.bounds ?? FLOAT32_BOUNDS).result()]);
}

/** All groups of one file of weights. */
function* verifySet(
  dir: string,
  files: { config: string; io: string; weights: string },
  { backend, bounds = FLOAT32_BOUNDS }: VaeOptions,
): Generator<GroupResult> {
  const name = files.weights.slice(0, -WEIGHTS.length);
  let opened: Vae | null = null;
  yield* attempt(`${name} weights`, () => {
    const config = readVaeConfigFile(join(dir, files.config));
    using file = Safetensors.open(join(dir, files.weights));
    opened = Vae.load(backend, config, file);
    return [];
  });
  if (!opened) return;
  const vae: Vae = opened;
  const rounds = backend.elemBytes.act === 2;
  const checks = [checkEncoder, checkDecoder, checkActivations];
  for (const check of checks) {
    yield* attempt(`${name} ${check.name}`, () => {
      using file = Safetensors.open(files.io);
      return check(vae, file, { name, bounds, rounds });
    });
  }
  vae.free();
}

interface Check {
  readonly name: string;
  readonly bounds: VaeBounds;
  readonly rounds: boolean;
}

/** A group that measures as the backend's kind of rounding asks for. */
function measured({ name, bounds, rounds }: Check, what: string, bound: number, error = maxAbs) {
  const group = new Group(`${name} ${what}`, rounds ? bounds.rounded : bound);
  return {
    group,
    add(got: ArrayLike<number>, want: ArrayLike<number>, where: string): void {
      group.add((rounds ? relRms : error)(got, want), where);
    },
  };
}

/** Number, height and width of the images of a tensor [N, C, H, W]. */
function imagesOf(file: Safetensors, name: string): Size & { N: number } {
  const [N = 0, , height = 0, width = 0] = file.entry(name).shape;
  if (N < 1 || file.entry(name).shape.length !== 4) {
    throw new Failure({ what: file.path, why: `${name} is not [N, C, H, W]` });
  }
  return { N, height, width };
}

/** Runs a function of one image over all of a tensor; the results side by side. */
function each(
  file: Safetensors,
  name: string,
  run: (image: Float32Array, size: Size) => ArrayLike<number>,
): Float64Array {
  const { N, ...size } = imagesOf(file, name);
  const values = file.readFloat32(name);
  const part = values.length / N;
  const results = Array.from({ length: N }, (_, n) => {
    return Float64Array.from(run(values.subarray(n * part, (n + 1) * part), size));
  });
  const all = new Float64Array(N * results[0]!.length);
  for (const [n, result] of results.entries()) all.set(result, n * result.length);
  return all;
}

function checkEncoder(vae: Vae, file: Safetensors, check: Check): (GroupResult | null)[] {
  const { bounds } = check;
  const distribution = measured(check, 'moments', bounds.moments);
  const latents = measured(check, 'latents', bounds.latents);
  if (!file.tensors.has('image')) return [];
  const { N } = imagesOf(file, 'image');
  const moments = each(file, 'image', (image, size) => vae.encode(image, size));
  const q = posterior(moments, N);
  // Latents of these files: the factor alone, without the shift of some configs.
  const { scaling_factor } = vae.config;
  const scaled = (z: Float32Array) => z.map((v) => v * scaling_factor);
  const compare = (to: typeof latents, name: string, got: () => ArrayLike<number>) => {
    if (file.tensors.has(name)) to.add(got(), file.readFloat64(name), name);
  };
  compare(distribution, 'moments', () => moments);
  compare(distribution, 'mean', () => q.mean);
  compare(distribution, 'logvar', () => q.logvar);
  compare(latents, 'latents', () => scaled(q.mean));
  compare(latents, 'latents_sample', () => scaled(samplePosterior(q, file.readFloat64('noise'))));
  return [distribution.group.result(), latents.group.result()];
}

/** The decoder's input for latents of these files. */
function unscaled(vae: Vae, latent: Float32Array): Float64Array {
  return Float64Array.from(latent, (v) => v / vae.config.scaling_factor);
}

function checkDecoder(vae: Vae, file: Safetensors, check: Check): (GroupResult | null)[] {
  const decoded = measured(check, 'decoded', check.bounds.decoded);
  for (const suffix of ['', '_sample']) {
    if (!file.tensors.has(`decoded${suffix}`)) continue;
    const got = each(file, `latents${suffix}`, (z, size) => vae.decode(unscaled(vae, z), size));
    decoded.add(got, file.readFloat64(`decoded${suffix}`), `decoded${suffix}`);
  }
  return [decoded.group.result()];
}

/** Inner values of the first image: `act.<module>`. */
function checkActivations(vae: Vae, file: Safetensors, check: Check): (GroupResult | null)[] {
  const inner = measured(check, 'inner values', check.bounds.activations, relMax);
  const names = [...file.tensors.keys()].filter((name) => name.startsWith('act.'));
  if (names.length === 0) return [];
  const first = (name: string) => file.readFloat32(name).subarray(0, elements(file, name));
  const runs = [
    ['encoder', 'image', first('image')],
    ['decoder', 'latents', unscaled(vae, first('latents'))],
  ] as const;
  const seen = new Set<string>();
  for (const [direction, input, values] of runs) {
    const runner = vae.plan(direction, imagesOf(file, input), { tap: true });
    runner.set('x', values);
    runner.run();
    for (const name of names) {
      if (!runner.plan.outputs.has(name.slice(4))) continue;
      seen.add(name);
      inner.add(runner.get(name.slice(4)), file.readFloat64(name), name);
    }
    runner.free();
  }
  for (const name of names) {
    if (!seen.has(name)) inner.group.add(Number.NaN, `${name}: the model has no such value`);
  }
  return [inner.group.result()];
}

/** Elements of one image. */
function elements(file: Safetensors, name: string): number {
  return file
    .entry(name)
    .shape.slice(1)
    .reduce((a, b) => a * b, 1);
}

/** The distribution alone: clamping, standard deviation, sample, distance from the unit normal. */
function checkGaussian(path: string, bounds: VaeBounds): Group {
  const group = new Group('gaussian', bounds.gaussian);
  using file = Safetensors.open(path);
  const [N = 0] = file.entry('moments').shape;
  const q: Posterior = posterior(file.readFloat64('moments'), N);
  const noise = file.readFloat64('noise');
  const part = q.mean.length / N;
  const kl = Array.from({ length: N }, (_, n) => {
    let sum = 0;
    for (let i = n * part; i < (n + 1) * part; i++) {
      sum += 0.5 * (q.mean[i]! ** 2 + Math.exp(q.logvar[i]!) - 1 - q.logvar[i]!);
    }
    return sum;
  });
  const results: Record<string, ArrayLike<number>> = {
    ...{ mean: q.mean, logvar: q.logvar, std: q.logvar.map((v) => Math.exp(0.5 * v)) },
    ...{ sample: samplePosterior(q, noise), kl },
  };
  for (const [name, got] of Object.entries(results)) {
    if (!file.tensors.has(name)) continue;
    const want = file.readFloat64(name);
    if (want.length !== got.length) group.add(Number.NaN, name);
    want.forEach((v, i) => {
      group.add(Math.abs(got[i]! - v) / Math.max(1, Math.abs(v)), `${name}[${i}]`);
    });
  }
  return group;
}
