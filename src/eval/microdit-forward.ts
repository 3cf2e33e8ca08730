// Conformance of the forward pass: outputs, guidance, denoiser, intermediate values, routing, sampler runs.
import { denoised, tokensToImage } from '../diffusion/edm.ts';
import { heun, noiseLevels } from '../diffusion/heun.ts';
import { Failure } from '../io/failure.ts';
import type { Safetensors } from '../io/safetensors.ts';
import { tokenCount } from '../model/config.ts';
import { denoiseTokens, directView, embedCaption } from '../model/dit.ts';
import type { Context } from '../model/layers.ts';
import { patchify } from '../plan/ops/patch.ts';
import { freeze } from '../plan/plan.ts';
import { Runner } from '../plan/runner.ts';
import { reshape, type Tensor } from '../plan/tensor.ts';
import { Trace } from '../plan/trace.ts';
import { Denoiser, type Guidance } from '../sample/denoiser.ts';
import { contextFor } from '../sample/network.ts';
import { regionsOf } from '../sample/weights.ts';
import { type Group, relMax, relative } from './conformance.ts';
import { type GoldenSet, readKept } from './microdit-set.ts';

export interface CallShape {
  /** Images. */
  readonly N: number;
  /** Caption length. */
  readonly S: number;
  /** Kept tokens of each image, or null for all. */
  readonly K: number | null;
}

/**
 * One traced network call. Inputs x [N, C, S, S], y [N, S, caption_channels], `t` [N] (or `sigma`, where
 * D(x; sigma) is wanted), ids [N, K], with `forced` also the tokens of each expert; outputs `out`, and with
 * `tap` every named intermediate value.
 */
export function networkCall(
  set: GoldenSet,
  { N, S, K }: CallShape,
  mode: { denoiser?: boolean; tap?: boolean; forced?: boolean } = {},
): Runner {
  const { network, backend, weights } = set;
  const { dit } = network;
  const { in_channels: C, input_size: size, patch_size: patchSize, caption_channels } = dit.config;
  const trace = new Trace();
  const tap = (name: string, value: Tensor) => trace.output(name, value);
  const g = contextFor(network, trace, {
    ...(mode.tap ? { tap } : {}),
    ...(mode.forced ? { forced: forcedInputs(trace) } : {}),
  });
  const x = trace.input('x', [N, C, size, size], 'real');
  const level = trace.input(mode.denoiser ? 'sigma' : 't', [N], 'real');
  const y = trace.input('y', [N, S, caption_channels], 'act');
  const ids = K === null ? null : trace.input('ids', [N, K], 'i32');
  const caption = embedCaption(g, dit, y);
  const view = directView(g, dit, caption);
  const F = (patches: Tensor, cNoise: Tensor) => {
    if (mode.denoiser) trace.output('c_noise', cNoise);
    const tokens = denoiseTokens(g, dit, patches, cNoise, caption.pooled, view, ids);
    const maskToken = g.weights.use(dit.maskToken);
    const flat = reshape(maskToken, [maskToken.shape.at(-1)!]);
    return tokensToImage(
      tokens,
      { channels: C, height: size, width: size, patchSize },
      ids,
      ids ? flat : null,
    );
  };
  const sigmaData = set.info.number('sigma_data', 0.9);
  const out = mode.denoiser
    ? denoised(F, { patchSize, sigmaData }, x, level)
    : F(patchify(x, patchSize), level);
  trace.output('out', out);
  return new Runner(backend, freeze('network', trace, { elemBytes: backend.elemBytes }), regionsOf(weights));
}

/** Makes an input of a trace for the tokens of each expert, by the layer's name. */
export function forcedInputs(trace: Trace): NonNullable<Context['forced']> {
  return (name, shape) => trace.input(`${name}.topk_indices`, shape, 'i32');
}

/** Numbers of images and of caption tokens that a file's x (or x0) and y have. */
export function callShape(file: Safetensors, x: string, K: number | null): CallShape {
  return { N: file.entry(x).shape[0] ?? 0, S: file.entry('y').shape.at(-2) ?? 0, K };
}

/** Outputs and, for the masked call, every intermediate value that the set holds. */
export function checkForward(
  set: GoldenSet,
  groups: { outputs: Group; activations: Group; routing: Group },
): void {
  using file = set.open('forward');
  if (!file) return;
  const whole = callShape(file, 'x', null);
  const kept = readKept(file, whole.N, tokenCount(set.network.dit.config));
  const run = (mode: { masked: boolean; denoiser?: boolean; tap?: boolean }, check: (r: Runner) => void) => {
    if (mode.masked && !kept) return;
    const runner = networkCall(set, mode.masked && kept ? { ...whole, K: kept.K } : whole, mode);
    runner.set('x', file.readFloat32('x'));
    runner.set('y', file.readFloat32('y'));
    const level = mode.denoiser ? 'sigma' : 't';
    runner.set(level, file.readFloat32(level));
    if (mode.masked && kept) runner.set('ids', kept.ids);
    runner.run();
    check(runner);
    runner.free();
  };
  for (const name of file.tensors.keys()) {
    const plain = /^(out|D_x)_(nomask|mask\d+)$/.exec(name);
    if (plain) {
      const masked = plain[2] !== 'nomask';
      const denoiser = plain[1] === 'D_x';
      run({ masked, denoiser }, (r) => {
        groups.outputs.add(relMax(r.get('out'), file.readFloat64(name)), name);
        if (!denoiser || !file.tensors.has('c_noise')) return;
        groups.outputs.add(relMax(r.get('c_noise'), file.readFloat64('c_noise')), 'c_noise');
      });
    }
    const guided = /^out_cfg(\d+)(?:p(\d+))?(_scalar_t)?$/.exec(name);
    if (guided) {
      const scale = Number(`${guided[1]}.${guided[2] ?? 0}`);
      const want = file.readFloat64(name);
      groups.outputs.add(relMax(guidedCall(set, file, whole, scale, Boolean(guided[3])), want), name);
    }
  }
  using activations = set.open('activations');
  if (activations) {
    run({ masked: true, tap: true }, (r) => checkActivations(activations, r, groups));
  }
}

/** u + scale (c - u) of two plain calls, as the reference does it. */
function guidedCall(
  set: GoldenSet,
  file: Safetensors,
  shape: CallShape,
  scale: number,
  scalarT: boolean,
): Float64Array {
  const runner = networkCall(set, shape);
  const t = file.readFloat32('t');
  const y = file.readFloat32('y');
  runner.set('x', file.readFloat32('x'));
  runner.set('t', scalarT ? t.map(() => t[0]!) : t);
  runner.set('y', y);
  runner.run();
  const conditional = runner.get('out');
  runner.set('y', new Float32Array(y.length));
  runner.run();
  const zero = runner.get('out');
  runner.free();
  return Float64Array.from(zero, (u, i) => u + scale * (conditional[i]! - u));
}

function checkActivations(
  file: Safetensors,
  runner: Runner,
  groups: { activations: Group; routing: Group },
): void {
  for (const [name, entry] of file.tensors) {
    if (!runner.plan.outputs.has(name))
      groups.activations.add(Number.NaN, `${name}: the model has no such value`);
    else if (name.endsWith('.topk_indices')) {
      const K = entry.shape.at(-1) ?? 1;
      groups.routing.add(selectionErrors(runner.get(name), file.readInt32(name), K), name);
    } else groups.activations.add(relMax(runner.get(name), file.readFloat64(name)), name);
  }
}

/** Number of experts whose set of K tokens differs. */
function selectionErrors(got: ArrayLike<number>, want: ArrayLike<number>, K: number): number {
  if (got.length !== want.length) return Number.NaN;
  const chosen = (from: ArrayLike<number>, at: number) =>
    Array.from({ length: K }, (_, i) => from[at + i]!)
      .sort((a, b) => a - b)
      .join();
  let errors = 0;
  for (let at = 0; at < want.length; at += K) if (chosen(got, at) !== chosen(want, at)) errors += 1;
  return errors;
}

/**
 * Every step of every sampler run: guided by the shortcut for a zeroed caption, by zeros as its own, and
 * plainly.
 */
export function checkSampler(set: GoldenSet, groups: { latents: Group; levels: Group }): void {
  using file = set.open('sampler');
  if (!file) return;
  for (const key of file.tensors.keys()) {
    const name = /^(.+)\.latents$/.exec(key)?.[1];
    if (name === undefined) continue;
    const info = set.info.maybe('sampler')?.maybe(name) ?? null;
    const [steps = 0] = file.entry(key).shape;
    const scale = info?.number('cfg') ?? Number(/^cfg([\dp.]+)/.exec(name)?.[1]?.replace('p', '.'));
    if ((info?.number('steps', steps) ?? steps) !== steps || Number.isNaN(scale)) {
      throw new Failure({
        what: file.path,
        why: `${key} is not of the steps or the guidance that its name says`,
      });
    }
    const levels = noiseLevels(steps, { sigmaMin: 0.002, sigmaMax: 80, rho: 7 });
    for (const [i, want] of info?.numbers('t_steps').entries() ?? []) {
      groups.levels.add(relative(levels[i] ?? Number.NaN, want), `${name} t_steps[${i}]`);
    }
    // The reference's sampler guides above 1 only.
    const ways: Guidance[] = scale > 1 ? ['zero', 'negative', 'plain'] : ['none'];
    for (const guidance of ways) checkRun(set, file, name, { scale, levels, guidance }, groups.latents);
  }
}

function checkRun(
  { network, backend, weights, info }: GoldenSet,
  file: Safetensors,
  name: string,
  { scale, levels, guidance }: { scale: number; levels: readonly number[]; guidance: Guidance },
  latents: Group,
): void {
  const denoiser = new Denoiser({
    ...{ backend, network, weights, guidance },
    sigmaData: info.number('sigma_data', 0.9),
    batch: file.entry(`${name}.x_unit_noise`).shape[0] ?? 0,
    captionLength: file.entry(`${name}.y`).shape.at(-2) ?? 0,
  });
  const y = file.readFloat32(`${name}.y`);
  const zeros = new Float32Array(y.length);
  denoiser.setCaptions(guidance === 'negative' ? Float32Array.from([...y, ...zeros]) : y);
  const steps = file.readFloat64(`${name}.latents`);
  const noise = file.readFloat64(`${name}.x_unit_noise`);
  const want = (i: number) => steps.subarray(i * noise.length, (i + 1) * noise.length);
  const final = heun((x, sigma) => denoiser.denoise(x, sigma, scale), noise, {
    levels,
    onStep: (i, x) => latents.add(relMax(x, want(i)), `${name} step ${i} (${guidance})`),
  });
  if (file.tensors.has(`${name}.final`)) {
    latents.add(relMax(final, file.readFloat64(`${name}.final`)), `${name} final (${guidance})`);
  }
  denoiser.free();
}
