// The plans of training: one micro-step (draw noise and mask, forward, loss, backward) and one update.
import { Failure } from '../io/failure.ts';
import { trainingLoss } from '../diffusion/edm.ts';
import { denoiseTokens, directView, embedCaption } from '../model/dit.ts';
import { keptTokens, tokenCount } from '../model/config.ts';
import type { Context } from '../model/layers.ts';
import { backward } from '../plan/backward.ts';
import { bucketsOf } from '../plan/buckets.ts';
import { allGather, allReduce, broadcast, reduce } from '../plan/ops/collective.ts';
import { zero } from '../plan/ops/fill.ts';
import {
  adamw,
  addLoss,
  clipScale,
  SCALAR_SIZE,
  STATE,
  STATE_SIZE,
  sumSquares,
} from '../plan/ops/optimizer.ts';
import { fromHalf } from '../plan/ops/half.ts';
import { drawKeep, drawMask, drawSigma, gaussian, PURPOSE, initConst } from '../plan/ops/random.ts';
import { scaleImages } from '../plan/ops/rows.ts';
import type { Parameter, Parameters } from '../plan/params.ts';
import { freeze, type Plan } from '../plan/plan.ts';
import { type Recompute, recompute } from '../plan/recompute.ts';
import { product, type Tensor } from '../plan/tensor.ts';
import { Trace } from '../plan/trace.ts';
import type { ElemBytes, Rank } from '../backend/backend.ts';
import { type CaptionTower, traceCaptions } from '../sample/clip-encoder.ts';
import { captionInput, contextFor, type Network } from '../sample/network.ts';
import { separate } from '../sample/weights.ts';
import { tapRouters } from './gap.ts';
import { ALONE, ownerOf, type Share, shareOf } from './share.ts';

/**
 * How the data gives images and captions: images as float32 (`x0`) or as halves (`latents`), captions as word
 * rows (`words`), as states of a text tower in halves (`captions`), or as token ids for one (`tokens`).
 */
export interface Inputs {
  readonly images: 'x0' | 'latents';
  readonly captions: 'words' | 'captions' | 'tokens';
}

/** One micro-step's own numbers. */
export interface MicroStep {
  readonly inputs: Inputs;
  /** Images N of one pass. */
  readonly batch: number;
  /** Passes whose gradients add up to one update. */
  readonly passes: number;
  /** What routers choose from is readable after a run (gap.ts). */
  readonly gaps?: boolean;
  /** Processes that do as many passes at the same time; 1 when left out. */
  readonly ranks?: number;
  /** The last pass of an update: ranks sum their gradients in it, each stretch as soon as it is complete. */
  readonly last?: boolean;
  readonly maskRatio: number;
  readonly P_mean: number;
  readonly P_std: number;
  readonly sigmaData: number;
  readonly captionDropout: number;
  /** What gradients have made again rather than kept. */
  readonly recompute: Recompute;
  /** Caption length S. */
  readonly captionLength: number;
}

/** What a pass learns from, as tensors of its trace. */
export interface TrainingTensors {
  readonly x0: Tensor;
  readonly noise: Tensor;
  readonly sigma: Tensor;
  readonly ids: Tensor | null;
  /** Caption tokens [N, S, caption_channels]. */
  readonly y: Tensor;
}

/** Patches K that the backbone sees; null for all. */
export function keptPatches(network: Network, maskRatio: number): number | null {
  const { config } = network.dit;
  if (maskRatio === 0 || config.masking === 'none') return null;
  return keptTokens(tokenCount(config), maskRatio);
}

/**
 * Micro-step whose noise, levels, mask and caption dropout are drawn from the seed and each image's place in
 * the run. Inputs: those of `step.inputs`, places [N, 2], seed [2].
 */
export function microStepPlan(
  network: Network,
  step: MicroStep,
  elemBytes: ElemBytes,
  tower: CaptionTower | null = null,
): Plan {
  return freeze('micro-step', microStepTrace(network, step, tower), { elemBytes });
}

/** The same before its memory is planned. */
export function microStepTrace(network: Network, step: MicroStep, tower: CaptionTower | null = null): Trace {
  const trace = new Trace();
  const g = contextFor(network, trace, { training: true, tap: step.gaps ? tapRouters(trace) : undefined });
  const { in_channels: C, input_size: S } = network.dit.config;
  const N = step.batch;
  const x0 = imageInput(trace, step.inputs, [N, C, S, S]);
  const places = trace.input('places', [N, 2], 'i32');
  const seed = trace.input('seed', [2], 'i32');
  const kept = keptPatches(network, step.maskRatio);
  const captions = captionTokens(g, network, trace, step, tower);
  const y =
    step.captionDropout > 0 ? scaleImages(captions, drawKeep(places, seed, step.captionDropout)) : captions;
  const loss = traceLoss(g, network, step.sigmaData, {
    x0,
    noise: gaussian(places, seed, [N, C, S, S], PURPOSE.noise),
    sigma: drawSigma(places, seed, step.P_mean, step.P_std),
    ids: kept === null ? null : drawMask(places, seed, tokenCount(network.dit.config), kept),
    y,
  });
  const { ranks = 1, last = false } = step;
  finishMicroStep(trace, loss, N * step.passes * ranks, step.recompute);
  if (ranks > 1 && last) sumGradients(trace, shareOf(network.parameters, { rank: 0, ranks }));
  return trace;
}

/** Buckets that gradients are sent in, about: after the last pass one of them is still to go. */
const BUCKETS = 32;

/**
 * Has every bucket of gradients summed on the rank that owns it, right behind the last node that adds to it.
 * To its owner rather than scattered in slices: so each rank's share of the state stays one stretch, which
 * checkpoints and the gathering of weights rely on, and which does not follow a stage's buckets. It moves
 * ranks / (ranks - 1) times the bytes of a scattering, while others are being made (bench/SPEED.md).
 */
function sumGradients(trace: Trace, share: Share): void {
  const least = Math.ceil(share.trainableEnd / BUCKETS);
  const nodes = trace.nodes.splice(0);
  const buckets = bucketsOf(nodes, { space: 'grad', cut: share.count, least });
  const complete = Map.groupBy(buckets, ({ after }) => after);
  for (const [i, node] of nodes.entries()) {
    trace.nodes.push(node);
    for (const { first, count } of complete.get(i) ?? []) {
      reduce(
        trace.fixed('grad', `gradient ${first}`, [count], first, { elem: 'real' }),
        ownerOf(share, first),
      );
    }
  }
}

function imageInput(trace: Trace, { images }: Inputs, shape: readonly number[]): Tensor {
  if (images === 'x0') return trace.input('x0', shape, 'real');
  return fromHalf(trace.input('latents', [product(shape) / 2], 'i32'), shape, 'real');
}

/** Captions [N, S, caption_channels] of a micro-step. */
function captionTokens(
  g: Context,
  network: Network,
  trace: Trace,
  step: MicroStep,
  tower: CaptionTower | null,
): Tensor {
  const { inputs, batch: N, captionLength: S } = step;
  const D = network.dit.config.caption_channels;
  if (inputs.captions === 'words') return captionInput(g, network, trace, N, S);
  if (inputs.captions === 'captions') {
    return fromHalf(trace.input('captions', [(N * S * D) / 2], 'i32'), [N, S, D], 'act');
  }
  if (!tower) throw new Failure({ what: 'captions', why: 'come as token ids, and there is no text tower' });
  return traceCaptions(tower, trace.input('tokens', [N, S, 2], 'i32'));
}

/** Loss of each image [N]. */
export function traceLoss(g: Context, network: Network, sigmaData: number, t: TrainingTensors): Tensor {
  const { dit } = network;
  const caption = embedCaption(g, dit, t.y);
  const view = directView(g, dit, caption);
  const F = (patches: Tensor, cNoise: Tensor, ids: Tensor | null) =>
    denoiseTokens(g, dit, patches, cNoise, caption.pooled, view, ids);
  return trainingLoss(F, { patchSize: dit.config.patch_size, sigmaData }, t);
}

/** Appends the gradient of the mean loss over `images` images, and adds the losses to the state block. */
export function finishMicroStep(trace: Trace, loss: Tensor, images: number, level: Recompute = 'none'): void {
  const forward = trace.nodes.length;
  trace.output('loss', loss);
  const share = trace.fresh({ shape: loss.shape, elem: loss.storage.elem }, 'd(mean loss)');
  initConst(share, 1 / images);
  backward(trace, [[loss, share]]);
  addLoss(loss, stateBlock(trace));
  recompute(trace, forward, level);
}

export interface UpdateOptions {
  /** Largest global gradient norm; 0: no clipping. */
  readonly clipNorm: number;
  readonly weightDecay: number;
  /** Kinds of parameters that weight decay spares. */
  readonly noDecay?: readonly string[];
  readonly beta1: number;
  readonly beta2: number;
  readonly eps: number;
  readonly expertLrScale: number;
  /** Keep averaged weights in space 'ema'. */
  readonly ema: boolean;
}

/**
 * Norm, clip, AdamW and EMA over the flat buffers; gradients are zero afterwards. With several ranks each
 * updates its own share, whose gradients the last pass has summed: m, v and ema hold that share alone, and
 * weights are exchanged at the end.
 */
export function updatePlan(
  parameters: Parameters,
  options: UpdateOptions,
  elemBytes: ElemBytes,
  rank: Rank = ALONE,
): Plan {
  const trace = new Trace();
  const share = shareOf(parameters, rank);
  const state = stateBlock(trace);
  const scalars = trace.fixed('scalar', 'scalars', [SCALAR_SIZE], 0, { elem: 'real' });
  const real = (space: string, name: string, count: number, base: number) =>
    trace.fixed(space, name, [count], base, { elem: 'real' });
  if (share.ranks > 1) allReduce(real('state', 'loss sums', 2, STATE.lossSum));
  const maxNorm = options.clipNorm > 0 ? options.clipNorm : Number.POSITIVE_INFINITY;
  const partial = sumSquares(real('grad', 'gradient', share.count, share.first));
  if (share.ranks > 1) allReduce(partial);
  clipScale(partial, state, maxNorm);
  for (const part of stretches(parameters, options, share)) {
    const flat = (space: string, first = 0) =>
      real(space, `${space} ${part.base}`, part.count, part.base - first);
    const buffers = {
      weight: flat('master'),
      grad: flat('grad'),
      m: flat('m', share.first),
      v: flat('v', share.first),
      ema: options.ema ? flat('ema', share.first) : null,
      copy: separate(elemBytes)
        ? trace.fixed('weight', `weight ${part.base}`, [part.count], part.base)
        : null,
    };
    const { beta1, beta2, eps } = options;
    adamw(buffers, scalars, state, { decay: part.decay, lrScale: part.lrScale, beta1, beta2, eps });
  }
  if (share.ranks > 1) exchangeWeights(trace, parameters, share, separate(elemBytes));
  return freeze('update', trace, { elemBytes });
}

/** Clears the gradients of other shares, and gathers what kernels read from the ranks that updated it. */
function exchangeWeights(trace: Trace, parameters: Parameters, share: Share, copies: boolean): void {
  const { first, count, ranks } = share;
  const [end, all] = [first + count, ranks * count];
  for (const [begin, length] of [[0, first] as const, [end, all - end] as const]) {
    if (length > 0) zero(trace.fixed('grad', `gradient ${begin}`, [length], begin, { elem: 'real' }));
  }
  if (!copies) {
    allGather(trace.fixed('master', 'weights', [all], 0, { elem: 'real' }), share);
    return;
  }
  allGather(trace.fixed('weight', 'weights', [all], 0), share);
  // Routers are read in float32: those elements stand at the beginning, mostly in the first share.
  for (let root = 0; root * count < parameters.masterEnd; root++) {
    const length = Math.min(count, parameters.masterEnd - root * count);
    broadcast(trace.fixed('master', `routers ${root}`, [length], root * count, { elem: 'real' }), root);
  }
}

function stateBlock(trace: Trace): Tensor {
  return trace.fixed('state', 'state', [STATE_SIZE], 0, { elem: 'real' });
}

interface Stretch {
  readonly base: number;
  readonly count: number;
  readonly decay: number;
  readonly lrScale: number;
}

/** Neighbouring parameters of a share that are treated alike are updated in one stretch. */
function stretches(parameters: Parameters, options: UpdateOptions, share: Share): Stretch[] {
  const trainable = parameters.list.filter((p) => !p.tags.frozen).toSorted((a, b) => a.base - b.base);
  const treatment = (p: Parameter) => ({
    decay: p.tags.decay && !options.noDecay?.includes(p.tags.kind) ? options.weightDecay : 0,
    lrScale: p.tags.expert ? options.expertLrScale : 1,
  });
  const parts: Stretch[] = [];
  for (const [i, p] of trainable.entries()) {
    const base = Math.max(p.base, share.first);
    const next = trainable[i + 1]?.base ?? parameters.trainableEnd;
    const end = Math.min(next, share.first + share.count);
    if (base >= end) continue;
    const { decay, lrScale } = treatment(p);
    const last = parts.at(-1);
    if (last && last.decay === decay && last.lrScale === lrScale) {
      parts[parts.length - 1] = { ...last, count: end - last.base };
    } else {
      parts.push({ base, count: end - base, decay, lrScale });
    }
  }
  return parts;
}
