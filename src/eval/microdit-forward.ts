// Conformance of the forward pass: outputs, guidance, denoiser, intermediate values, routing, sampler runs.
import type { Backend, Region } from '../backend/backend.ts';
import { denoised, tokensToImage } from '../diffusion/edm.ts';
import { heun, noiseLevels } from '../diffusion/heun.ts';
import type { Safetensors } from '../io/safetensors.ts';
import { denoiseTokens, directView, embedCaption } from '../model/dit.ts';
import { patchify } from '../plan/ops/patch.ts';
import { freeze } from '../plan/plan.ts';
import { Runner } from '../plan/runner.ts';
import { reshape, type Tensor } from '../plan/tensor.ts';
import { Trace } from '../plan/trace.ts';
import { Denoiser, type Guidance } from '../sample/denoiser.ts';
import { contextFor } from '../sample/network.ts';
import { type Group, relMax, relative } from './conformance.ts';
import type { GoldenSet } from './microdit-set.ts';

interface Call {
  readonly set: GoldenSet;
  readonly backend: Backend;
  readonly weights: Region;
}

/** One traced network call on N images with captions of length S; `ids` [N, K] or none. */
function networkCall(
  { set, backend, weights }: Call,
  c: { N: number; S: number; kept: number | null; preconditioned: boolean; tap: boolean },
): Runner {
  const { dit } = set.network;
  const { in_channels: C, input_size: size, patch_size: patchSize, caption_channels } = dit.config;
  const trace = new Trace();
  const tap = c.tap ? (name: string, value: Tensor) => trace.output(name, contiguous(value)) : undefined;
  const g = contextFor(set.network, trace, { tap });
  const x = trace.input('x', [c.N, C, size, size], 'real');
  const level = trace.input(c.preconditioned ? 'sigma' : 't', [c.N], 'real');
  const y = trace.input('y', [c.N, c.S, caption_channels], 'act');
  const ids = c.kept ? trace.input('ids', [c.N, c.kept], 'i32') : null;
  const caption = embedCaption(g, dit, y);
  const view = directView(g, dit, caption);
  const network = (patches: Tensor, cNoise: Tensor) => {
    const tokens = denoiseTokens(g, dit, patches, cNoise, caption.pooled, view, ids);
    const maskToken = g.weights.use(dit.maskToken);
    const flat = reshape(maskToken, [maskToken.shape.at(-1)!]);
    return tokensToImage(tokens, { channels: C, size, patchSize }, ids, ids ? flat : null);
  };
  const out = c.preconditioned
    ? denoised(network, { patchSize, sigmaData: set.info.sigma_data }, x, level)
    : network(patchify(x, patchSize), level);
  trace.output('out', out);
  return new Runner(backend, freeze('network', trace, { elemBytes: backend.elemBytes }), { weight: weights });
}

/** Views of strided buffers cannot be read back; none of the tapped values is one. */
function contiguous(t: Tensor): Tensor {
  return t;
}

/** Outputs and, for the masked call, every intermediate value that the set holds. */
export function checkForward(
  call: Call,
  groups: { outputs: Group; activations: Group; routing: Group },
): void {
  const file = call.set.open('forward');
  if (!file) return;
  using _ = file;
  const [N = 1] = file.entry('x').shape;
  const S = file.entry('y').shape[2] ?? 1;
  const kept = file.tensors.has('ids_keep') ? (file.entry('ids_keep').shape[1] ?? null) : null;
  const captions = file.readFloat32('y');
  const run = (name: string, options: { masked: boolean; preconditioned: boolean; tap?: boolean }) => {
    if (!file.tensors.has(name) && !options.tap) return;
    const runner = networkCall(call, {
      N,
      S,
      kept: options.masked ? kept : null,
      preconditioned: options.preconditioned,
      tap: options.tap ?? false,
    });
    runner.set('x', file.readFloat32('x'));
    runner.set('y', captions);
    const level = options.preconditioned ? 'sigma' : 't';
    runner.set(level, file.readFloat32(level));
    if (options.masked) runner.set('ids', file.readInt32('ids_keep'));
    runner.run();
    if (options.tap) checkActivations(call.set, runner, groups);
    else groups.outputs.add(relMax(runner.get('out'), file.readFloat64(name)), name);
    runner.free();
  };
  for (const name of file.tensors.keys()) {
    const masked = /_mask\d+$/.test(name);
    if (/^out_(nomask|mask\d+)$/.test(name)) run(name, { masked, preconditioned: false });
    if (/^D_x_(nomask|mask\d+)$/.test(name)) run(name, { masked, preconditioned: true });
    const guided = /^out_cfg(\d+)(?:p(\d+))?(_scalar_t)?$/.exec(name);
    if (guided) {
      const scale = Number(`${guided[1]}.${guided[2] ?? 0}`);
      groups.outputs.add(guidedError(call, file, name, scale, Boolean(guided[3])), name);
    }
  }
  if (file.tensors.has('c_noise')) {
    const sigma = file.readFloat64('sigma');
    groups.outputs.add(
      relMax(
        sigma.map((s) => Math.log(s) / 4),
        file.readFloat64('c_noise'),
      ),
      'c_noise',
    );
  }
  run('activations', { masked: true, preconditioned: false, tap: true });
}

/** u + scale (c - u) of two plain calls, as the reference does it. */
function guidedError(call: Call, file: Safetensors, name: string, scale: number, scalarT: boolean): number {
  const [N = 1] = file.entry('x').shape;
  const S = file.entry('y').shape[2] ?? 1;
  const runner = networkCall(call, { N, S, kept: null, preconditioned: false, tap: false });
  const t = file.readFloat32('t');
  runner.set('x', file.readFloat32('x'));
  runner.set('t', scalarT ? t.map(() => t[0]!) : t);
  const y = file.readFloat32('y');
  runner.set('y', y);
  runner.run();
  const conditional = runner.get('out');
  runner.set('y', new Float32Array(y.length));
  runner.run();
  const zero = runner.get('out');
  runner.free();
  return relMax(
    Float64Array.from(zero, (u, i) => u + scale * (conditional[i]! - u)),
    file.readFloat64(name),
  );
}

function checkActivations(
  set: GoldenSet,
  runner: Runner,
  groups: { activations: Group; routing: Group },
): void {
  const file = set.open('activations');
  if (!file) return;
  using _ = file;
  for (const [name, entry] of file.tensors) {
    if (name.endsWith('.topk_indices')) {
      const K = entry.shape.at(-1) ?? 1;
      groups.routing.add(selectionErrors(runner.get(name), file.readInt32(name), K), name);
    } else {
      groups.activations.add(relMax(runner.get(name), file.readFloat64(name)), name);
    }
  }
}

/** Number of experts whose set of K tokens differs. */
function selectionErrors(got: ArrayLike<number>, want: ArrayLike<number>, K: number): number {
  let errors = got.length === want.length ? 0 : Number.NaN;
  for (let at = 0; at < want.length; at += K) {
    const a = Array.from({ length: K }, (_, i) => got[at + i]!).sort((x, y) => x - y);
    const b = Array.from({ length: K }, (_, i) => want[at + i]!).sort((x, y) => x - y);
    if (a.join() !== b.join()) errors += 1;
  }
  return errors;
}

/** Every step of every sampler run, guided by the shortcut for a zeroed caption and the long way. */
export function checkSampler(call: Call, groups: { latents: Group; levels: Group }): void {
  const file = call.set.open('sampler');
  if (!file) return;
  using _ = file;
  for (const [run, { cfg, steps, t_steps }] of Object.entries(call.set.info.sampler ?? {})) {
    if (!file.tensors.has(`${run}.latents`)) continue;
    const levels = noiseLevels(steps, { sigmaMin: 0.002, sigmaMax: 80, rho: 7 });
    for (const [i, level] of levels.entries()) {
      groups.levels.add(relative(level, t_steps[i] ?? Number.NaN), `${run} t_steps[${i}]`);
    }
    const ways: Guidance[] = cfg === 1 ? ['none'] : ['zero', 'zero-direct'];
    for (const guidance of ways) runSampler(call, file, run, cfg, levels, guidance, groups.latents);
  }
}

function runSampler(
  { set, backend, weights }: Call,
  file: Safetensors,
  run: string,
  cfg: number,
  levels: readonly number[],
  guidance: Guidance,
  latents: Group,
): void {
  const [batch = 1] = file.entry(`${run}.x_unit_noise`).shape;
  const captionLength = file.entry(`${run}.y`).shape[2] ?? 1;
  const denoiser = new Denoiser({
    ...{ backend, network: set.network, weights, sigmaData: set.info.sigma_data },
    ...{ batch, guidance, captionLength },
  });
  const y = file.readFloat32(`${run}.y`);
  const zeros = new Float32Array(y.length);
  denoiser.setCaptions(guidance === 'zero-direct' ? Float32Array.from([...y, ...zeros]) : y);
  const steps = file.readFloat64(`${run}.latents`);
  const size = steps.length / (levels.length - 1);
  const final = heun((x, sigma) => denoiser.denoise(x, sigma, cfg), file.readFloat64(`${run}.x_unit_noise`), {
    levels,
    onStep: (i, x) =>
      latents.add(relMax(x, steps.subarray(i * size, (i + 1) * size)), `${run} step ${i} (${guidance})`),
  });
  if (file.tensors.has(`${run}.final`)) {
    latents.add(relMax(final, file.readFloat64(`${run}.final`)), `${run} final (${guidance})`);
  }
  denoiser.free();
}
