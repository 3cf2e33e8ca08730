// Ops that draw: noise, noise levels, masks, caption dropout, initial weights. Philox4x32-10, counted by
// (element, index, purpose) under a seed: a number depends on nothing else (batch split, threads, device).
import { Failure } from '../../io/failure.ts';
import { defineOp, type Node, type Op, need, refuse } from '../op.ts';
import { cols, count, isContiguous, product, type Tensor } from '../tensor.ts';
import { traceOf } from '../trace.ts';

/** The counter's last word: what a number is for. Changing one changes every run. */
export const PURPOSE = {
  noise: 1,
  sigma: 2,
  mask: 3,
  captionDropout: 4,
  init: 5,
  dataOrder: 6,
  sampleNoise: 7,
  churn: 8,
} as const;

/** Elements that one block draws; a multiple of 4. */
const SPAN = 16384;
const EXACT = { nmse: 0, why: 'drawn in float32 everywhere' };

/** A seed (0 .. 2^53 - 1) or a place as the two words that the ops read. */
export function words(value: number): [low: number, high: number] {
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new Failure({ what: `seed ${value}`, why: 'is not a whole number from 0 to 2^53 - 1' });
  }
  return [(value % 2 ** 32) | 0, Math.floor(value / 2 ** 32)];
}

/** Checks seed [2] or [N, 2] and places [N, 2], and returns N. */
function checkStreams(op: string, seed: Tensor, places: Tensor | null): number {
  for (const t of [seed, places]) {
    if (t && (t.storage.elem !== 'i32' || cols(t) !== 2 || !isContiguous(t))) {
      refuse(op, 'seed and places are pairs of i32 words', t);
    }
  }
  const N = places ? count(places) / 2 : 1;
  if (count(seed) !== 2 && count(seed) !== 2 * N)
    refuse(op, 'one seed for all, or one an image', seed, places);
  return N;
}

/** Words from one image's seed to the next. */
const seedStride = (seed: Tensor) => (count(seed) > 2 ? 2 : 0);

/** Fields and launch of the ops that fill an output [N, M], or a parameter, element by element. */
function elementwise(op: string, number: string | null) {
  const fields = {
    pointers: `i32 seed places; ${number ? 'real' : 'i32'} y`,
    ints: `M span chunks ldseed index purpose${number ? '' : ' start'}`,
    reals: number ?? undefined,
  };
  const launch = (node: Node) => {
    const seed = need(node.inputs[0], op);
    const places = node.inputs[1] ?? null;
    const y = need(node.outputs[0], op);
    const N = checkStreams(op, seed, places);
    const { index = 0, purpose = 0, start = 0 } = node.attrs;
    if (count(y) % N !== 0 || !isContiguous(y)) refuse(op, `does not fill ${N} images`, y, places);
    const M = count(y) / N;
    const chunks = Math.ceil(M / SPAN);
    return {
      pointers: [seed, places, y],
      ints: [M, SPAN, chunks, seedStride(seed), index, purpose, ...(number ? [] : [start])],
      reals: number ? [node.attrs[number] ?? 0] : [],
      blocks: N * chunks,
    };
  };
  return { fields, launch };
}

const drawn = {
  backward: 'random numbers depend on no tensor',
  writes: ['set'] as const,
  tolerance: EXACT,
};

export const randomBitsOp = defineOp({
  name: 'random_bits',
  formula: 'y[n, i] = word i of the stream (seed, places[n], purpose)',
  inputs: ['seed', 'places?'],
  outputs: ['y'],
  shape: () => [null],
  ...elementwise('random_bits', null),
  ...drawn,
  flops: () => 0,
});

export const gaussianOp = defineOp({
  name: 'gaussian',
  formula: 'y[n, i] = std * z(seed, places[n], purpose, i), z normal',
  inputs: ['seed', 'places?'],
  outputs: ['y'],
  shape: () => [null],
  ...elementwise('gaussian', 'std'),
  ...drawn,
  flops: (node) => 20 * count(need(node.outputs[0], 'gaussian')),
});

export const uniformOp = defineOp({
  name: 'uniform',
  formula: 'y[n, i] = u(seed, places[n], purpose, i), uniform in -bound .. bound',
  inputs: ['seed', 'places?'],
  outputs: ['y'],
  shape: () => [null],
  ...elementwise('uniform', 'bound'),
  ...drawn,
  flops: (node) => 2 * count(need(node.outputs[0], 'uniform')),
});

/** Emits an op that fills a new tensor of the given shape. */
function fillNew(
  op: Op,
  places: Tensor,
  seed: Tensor,
  shape: readonly number[],
  attrs: Node['attrs'],
): Tensor {
  if (shape[0] !== checkStreams(op.name, seed, places))
    refuse(op.name, `makes [${shape}], not as many`, places);
  const elem = op === randomBitsOp ? 'i32' : 'real';
  return traceOf(seed).emitInto(op, [seed, places], [{ shape, elem }], attrs)[0]!;
}

/**
 * Unit normal noise, shape [N, ..] real. places [N, 2] i32: place of each image in the run (low, high word);
 * seed [2] i32, or [N, 2] for a seed an image; purpose out of PURPOSE.
 */
export function gaussian(places: Tensor, seed: Tensor, shape: readonly number[], purpose: number): Tensor {
  return fillNew(gaussianOp, places, seed, shape, { purpose, std: 1 });
}

/** Raw words [N, M] i32 of the streams of images, from element `start` (a multiple of 4) on. */
export function randomBits(places: Tensor, seed: Tensor, M: number, purpose: number, start = 0): Tensor {
  if (start % 4 !== 0) refuse('random_bits', `starts at ${start}, not at a multiple of 4`, places);
  return fillNew(randomBitsOp, places, seed, [checkStreams('random_bits', seed, places), M], {
    purpose,
    start,
  });
}

export const drawSigmaOp = defineOp({
  name: 'draw_sigma',
  formula: 'sigma[n] = exp(z P_std + P_mean)',
  inputs: ['seed', 'places'],
  outputs: ['sigma'],
  shape: ([seed, places]) => [
    { shape: [checkStreams('draw_sigma', need(seed, 'draw_sigma'), places ?? null)], elem: 'real' },
  ],
  fields: { pointers: 'i32 seed places; real sigma', ints: 'N ldseed purpose', reals: 'P_mean P_std' },
  launch: (node) => {
    const seed = need(node.inputs[0], 'draw_sigma');
    return {
      pointers: [seed, need(node.inputs[1], 'draw_sigma'), need(node.outputs[0], 'draw_sigma')],
      ints: [count(need(node.outputs[0], 'draw_sigma')), seedStride(seed), PURPOSE.sigma],
      reals: [node.attrs.P_mean ?? 0, node.attrs.P_std ?? 0],
      blocks: 1,
    };
  },
  ...drawn,
  flops: (node) => 40 * count(need(node.outputs[0], 'draw_sigma')),
});

/** EDM, Table 1 (training): noise levels [N] real, ln(sigma) normal with mean P_mean and deviation P_std. */
export function drawSigma(places: Tensor, seed: Tensor, P_mean: number, P_std: number): Tensor {
  return traceOf(seed).emit(drawSigmaOp, [seed, places], { P_mean, P_std })[0]!;
}

export const drawKeepOp = defineOp({
  name: 'draw_keep',
  formula: 'keep[n] = 0 with probability threshold / 2^32, else 1',
  inputs: ['seed', 'places'],
  outputs: ['keep'],
  shape: ([seed, places]) => [
    { shape: [checkStreams('draw_keep', need(seed, 'draw_keep'), places ?? null)], elem: 'real' },
  ],
  fields: { pointers: 'i32 seed places; real keep', ints: 'N ldseed purpose threshold' },
  launch: (node) => {
    const seed = need(node.inputs[0], 'draw_keep');
    const keep = need(node.outputs[0], 'draw_keep');
    return {
      pointers: [seed, need(node.inputs[1], 'draw_keep'), keep],
      ints: [count(keep), seedStride(seed), PURPOSE.captionDropout, node.attrs.threshold ?? 0],
      blocks: 1,
    };
  },
  ...drawn,
  flops: () => 0,
});

/** Caption dropout: [N] real, 0 with probability p, else 1. */
export function drawKeep(places: Tensor, seed: Tensor, p: number): Tensor {
  if (!(p >= 0 && p <= 1)) refuse('draw_keep', `probability ${p}`, places);
  return traceOf(seed).emit(drawKeepOp, [seed, places], { threshold: Math.round(p * 2 ** 32) })[0]!;
}

export const keepSmallestOp = defineOp({
  name: 'keep_smallest',
  formula: 'ids[n] = places of the K smallest of keys[n] (unsigned; of equal ones the first), ascending',
  inputs: ['keys'],
  outputs: ['ids'],
  shape: ([k], { K = 0 }) => {
    const keys = need(k, 'keep_smallest');
    const [N = 1, T = 0] = keys.shape;
    if (keys.shape.length !== 2 || keys.storage.elem !== 'i32' || !isContiguous(keys) || K > T) {
      refuse('keep_smallest', `cannot keep ${K} of each`, keys);
    }
    return [{ shape: [N, K], elem: 'i32' }];
  },
  fields: { pointers: 'i32 keys ids', ints: 'T K' },
  launch: (node) => {
    const keys = need(node.inputs[0], 'keep_smallest');
    const ids = need(node.outputs[0], 'keep_smallest');
    const T = cols(keys);
    return { pointers: [keys, ids], ints: [T, cols(ids)], blocks: keys.shape[0] ?? 1, scratch: 4 * T };
  },
  ...drawn,
  flops: (node) => product(node.inputs[0]?.shape ?? []) * (node.inputs[0]?.shape[1] ?? 1),
});

/** Places of the K smallest of each row of keys [N, T] i32, ascending: [N, K] i32. */
export function keepSmallest(keys: Tensor, K: number): Tensor {
  return traceOf(keys).emit(keepSmallestOp, [keys], { K })[0]!;
}

/** MicroDiT's random mask: the K tokens of T with the smallest random keys, ascending: ids [N, K] i32. */
export function drawMask(places: Tensor, seed: Tensor, T: number, K: number): Tensor {
  return keepSmallest(randomBits(places, seed, T, PURPOSE.mask), K);
}

export const constantOp = defineOp({
  name: 'constant',
  formula: 'y = value',
  inputs: [],
  outputs: ['y'],
  shape: () => [null],
  fields: { pointers: 'real y', ints: 'count span', reals: 'value' },
  launch: (node) => {
    const y = need(node.outputs[0], 'constant');
    if (!isContiguous(y)) refuse('constant', 'is written in one stretch', y);
    return {
      pointers: [y],
      ints: [count(y), SPAN],
      reals: [node.attrs.value ?? 0],
      blocks: Math.ceil(count(y) / SPAN),
    };
  },
  backward: 'it reads nothing',
  writes: ['set'],
  tolerance: { nmse: 1e-13, why: 'one rounding' },
  flops: () => 0,
});

/** Who draws an initial weight: the run's seed [2] i32 and the parameter's number. */
export interface InitDraw {
  readonly seed: Tensor;
  readonly number: number;
}

function initialise(op: Op, param: Tensor, draw: InitDraw | null, attrs: Node['attrs']): void {
  const inputs = draw ? [draw.seed, null] : [];
  const place = { index: draw?.number ?? 0, purpose: PURPOSE.init };
  traceOf(param).emitInto(op, inputs, [{ tensor: param, accumulate: false }], { ...attrs, ...place });
}

/** Writes normal numbers of deviation std into a parameter (real, at a fixed place). */
export function initNormal(param: Tensor, std: number, draw: InitDraw): void {
  initialise(gaussianOp, param, draw, { std });
}

/** Writes uniform numbers in -bound .. bound into a parameter. */
export function initUniform(param: Tensor, bound: number, draw: InitDraw): void {
  initialise(uniformOp, param, draw, { bound });
}

/** Writes one value into a parameter. */
export function initConst(param: Tensor, value: number): void {
  initialise(constantOp, param, null, { value });
}
