// Ops that move rows: kept tokens, mean over tokens, positions, caption dropout, guidance constant.
import { defineOp, need, type Node, refuse } from '../op.ts';
import { cols, count, isContiguous, rows, type Tensor } from '../tensor.ts';
import { traceOf } from '../trace.ts';

const EXACT = { nmse: 0, why: 'copies' };
const ROUNDED = { nmse: 1e-13, why: 'one product or sum per element' };
const flag = (add: boolean | undefined) => (add ? 1 : 0);

/** x [N, T, C] as its three extents. */
function extents(op: string, x: Tensor): [number, number, number] {
  if (x.shape.length !== 3) refuse(op, 'needs [N, T, C]', x);
  return [x.shape[0] ?? 1, x.shape[1] ?? 1, cols(x)];
}

/** A list of token numbers per image, [N, K] i32 without gaps. */
export function checkIds(op: string, ids: Tensor, N: number): void {
  if (ids.storage.elem !== 'i32' || ids.shape.length < 2 || ids.shape[0] !== N || !isContiguous(ids)) {
    refuse(op, `needs a list of i32 for each of ${N} images`, ids);
  }
}

export const keepSlotsOp = defineOp({
  name: 'keep_slots',
  formula: 'slots[n, t] = k where ids[n, k] = t, else -1',
  inputs: ['ids'],
  outputs: ['slots'],
  shape: ([x], { T = 0 }) => {
    const ids = need(x, 'keep_slots');
    checkIds('keep_slots', ids, ids.shape[0] ?? 1);
    if (ids.shape.length !== 2 || cols(ids) > T) refuse('keep_slots', `cannot keep so many of ${T}`, ids);
    return [{ shape: [ids.shape[0] ?? 1, T], elem: 'i32' }];
  },
  fields: { pointers: 'i32 ids slots', ints: 'K T' },
  launch: (node) => {
    const slots = need(node.outputs[0], 'keep_slots');
    const ids = need(node.inputs[0], 'keep_slots');
    return { pointers: [ids, slots], ints: [cols(ids), cols(slots)], blocks: rows(ids), lanes: cols(ids) };
  },
  backward: 'places are not numbers',
  writes: ['set'],
  cheap: true,
  tolerance: EXACT,
  flops: () => 0,
});

/** Where each of T tokens stands in ids [N, K] (distinct per image): [N, T] i32, -1 where it is not in. */
export function keepSlots(ids: Tensor, T: number): Tensor {
  return traceOf(ids).emit(keepSlotsOp, [ids], { T })[0]!;
}

export const gatherRowsOp = defineOp({
  name: 'gather_rows',
  formula: 'y[n, k] = x[n, ids[n, k]]',
  inputs: ['x', 'ids'],
  outputs: ['y'],
  shape: ([xx, i]) => {
    const x = need(xx, 'gather_rows');
    const ids = need(i, 'gather_rows');
    const [N, T, C] = extents('gather_rows', x);
    checkIds('gather_rows', ids, N);
    if (ids.shape.length !== 2 || cols(ids) > T) refuse('gather_rows', 'more rows than there are', x, ids);
    return [{ shape: [N, cols(ids), C], elem: x.storage.elem }];
  },
  fields: { pointers: 'act x; i32 ids; act y', ints: 'C T K ldx ldy' },
  launch: (node) => {
    const x = need(node.inputs[0], 'gather_rows');
    const y = need(node.outputs[0], 'gather_rows');
    const ids = need(node.inputs[1], 'gather_rows');
    const [, T, C] = extents('gather_rows', x);
    return { pointers: [x, ids, y], ints: [C, T, cols(ids), x.ld, y.ld], blocks: rows(y), lanes: cols(y) };
  },
  backward: (node, b) => {
    const [x, ids] = node.inputs;
    const dy = b.grad(node.outputs[0] ?? null);
    const dx = b.sink(x ?? null);
    if (!x || !ids || !dy || !dx) return;
    const T = x.shape[1] ?? 1;
    const slots = b.append(keepSlotsOp, [ids], [{ shape: [x.shape[0] ?? 1, T], elem: 'i32' }], { T });
    b.append(gatherRowsBwd, [slots[0] ?? null, dy], [dx]);
  },
  writes: ['set'],
  cheap: true,
  tolerance: EXACT,
  flops: () => 0,
});

export const gatherRowsBwd = defineOp({
  name: 'gather_rows_bwd',
  formula: 'dx[n, t] = dy[n, slots[n, t]], 0 where the slot is -1',
  inputs: ['slots', 'dy'],
  outputs: ['dx'],
  shape: ([s, d]) => {
    const slots = need(s, 'gather_rows_bwd');
    const dy = need(d, 'gather_rows_bwd');
    const [N, , C] = extents('gather_rows_bwd', dy);
    checkIds('gather_rows_bwd', slots, N);
    return [{ shape: [N, cols(slots), C], elem: dy.storage.elem }];
  },
  fields: { pointers: 'i32 slots; act dy dx', ints: 'C T K lddy lddx add_dx' },
  launch: (node) => {
    const slots = need(node.inputs[0], 'gather_rows_bwd');
    const dy = need(node.inputs[1], 'gather_rows_bwd');
    const dx = need(node.outputs[0], 'gather_rows_bwd');
    const [, K, C] = extents('gather_rows_bwd', dy);
    return {
      pointers: [slots, dy, dx],
      ints: [C, cols(slots), K, dy.ld, dx.ld, flag(node.accumulate[0])],
      blocks: rows(dx),
      lanes: cols(dx),
    };
  },
  backward: 'only used for gradients',
  writes: ['either'],
  tolerance: EXACT,
  flops: () => 0,
});

/** Rows ids[n, ..] of each image: x [N, T, C], ids [N, K] i32 (distinct per image) -> [N, K, C]. */
export function gatherRows(x: Tensor, ids: Tensor): Tensor {
  return traceOf(x).emit(gatherRowsOp, [x, ids])[0]!;
}

export const meanTokensOp = defineOp({
  name: 'mean_tokens',
  formula: 'y[n] = mean over s of x[n, s]',
  inputs: ['x'],
  outputs: ['y'],
  shape: ([x]) => {
    const [N, , C] = extents('mean_tokens', need(x, 'mean_tokens'));
    return [{ shape: [N, C], elem: x?.storage.elem ?? 'act' }];
  },
  fields: { pointers: 'act x y', ints: 'C S ldx ldy' },
  launch: (node) => {
    const x = need(node.inputs[0], 'mean_tokens');
    const y = need(node.outputs[0], 'mean_tokens');
    const [N, S, C] = extents('mean_tokens', x);
    return { pointers: [x, y], ints: [C, S, x.ld, y.ld], blocks: N, scratch: 8 * C };
  },
  backward: (node, b) => {
    const dy = b.grad(node.outputs[0] ?? null);
    const dx = b.sink(node.inputs[0] ?? null);
    if (dx && dy) b.append(meanTokensBwd, [dy], [dx], { S: node.inputs[0]?.shape[1] ?? 1 });
  },
  writes: ['set'],
  cheap: true,
  tolerance: { nmse: 1e-12, why: 'a float32 sum over the tokens of an image' },
  flops: (node) => count(need(node.inputs[0], 'mean_tokens')),
});

export const meanTokensBwd = defineOp({
  name: 'mean_tokens_bwd',
  formula: 'dx[n, s] = dy[n] / S',
  inputs: ['dy'],
  outputs: ['dx'],
  shape: ([d], { S = 1 }) => {
    const dy = need(d, 'mean_tokens_bwd');
    return [{ shape: [rows(dy), S, cols(dy)], elem: dy.storage.elem }];
  },
  fields: { pointers: 'act dy dx', ints: 'C S lddy lddx add_dx' },
  launch: (node) => {
    const dy = need(node.inputs[0], 'mean_tokens_bwd');
    const dx = need(node.outputs[0], 'mean_tokens_bwd');
    const S = node.attrs.S ?? 1;
    return {
      pointers: [dy, dx],
      ints: [cols(dy), S, dy.ld, dx.ld, flag(node.accumulate[0])],
      blocks: rows(dx),
      lanes: cols(dx),
    };
  },
  backward: 'only used for gradients',
  writes: ['either'],
  tolerance: ROUNDED,
  flops: (node) => count(need(node.outputs[0], 'mean_tokens_bwd')),
});

/** Mean over the tokens of each image: x [N, S, C] -> [N, C]. */
export function meanTokens(x: Tensor): Tensor {
  return traceOf(x).emit(meanTokensOp, [x])[0]!;
}

export const addRowsOp = defineOp({
  name: 'add_rows',
  formula: 'y[n, t] = x[n, t] + pos[t]',
  inputs: ['x', 'pos'],
  outputs: ['y'],
  shape: ([xx, p]) => {
    const x = need(xx, 'add_rows');
    const pos = need(p, 'add_rows');
    const [, T, C] = extents('add_rows', x);
    if (rows(pos) !== T || cols(pos) !== C) refuse('add_rows', 'positions do not fit', x, pos);
    return [{ shape: x.shape, elem: x.storage.elem }];
  },
  fields: { pointers: 'act x pos y', ints: 'C T ldx ldpos ldy' },
  launch: (node) => {
    const x = need(node.inputs[0], 'add_rows');
    const pos = need(node.inputs[1], 'add_rows');
    const y = need(node.outputs[0], 'add_rows');
    const [, T, C] = extents('add_rows', x);
    return { pointers: [x, pos, y], ints: [C, T, x.ld, pos.ld, y.ld], blocks: rows(x), lanes: cols(x) };
  },
  backward: (node, b) => {
    if (b.wants(node.inputs[1] ?? null)) refuse('add_rows', 'positions have no gradient', ...node.inputs);
    const dy = b.grad(node.outputs[0] ?? null);
    const dx = b.sink(node.inputs[0] ?? null);
    if (dx && dy) b.append(addRowsBwd, [dy], [dx]);
  },
  writes: ['set'],
  inPlace: [[0, 0]],
  cheap: true,
  tolerance: ROUNDED,
  flops: (node) => count(need(node.inputs[0], 'add_rows')),
});

export const addRowsBwd = defineOp({
  name: 'add_rows_bwd',
  formula: 'dx = dy',
  inputs: ['dy'],
  outputs: ['dx'],
  shape: ([dy]) => [{ shape: need(dy, 'add_rows_bwd').shape, elem: dy?.storage.elem ?? 'act' }],
  fields: { pointers: 'act dy dx', ints: 'C lddy lddx add_dx' },
  launch: (node) => {
    const dy = need(node.inputs[0], 'add_rows_bwd');
    const dx = need(node.outputs[0], 'add_rows_bwd');
    return {
      pointers: [dy, dx],
      ints: [cols(dy), dy.ld, dx.ld, flag(node.accumulate[0])],
      blocks: rows(dy),
      lanes: cols(dy),
    };
  },
  backward: 'only used for gradients',
  writes: ['either'],
  inPlace: [[0, 0]],
  tolerance: EXACT,
  flops: () => 0,
});

/** Adds one row per token place to every image: x [N, T, C] + pos [T, C]. pos gets no gradient. */
export function addRows(x: Tensor, pos: Tensor): Tensor {
  return traceOf(x).emit(addRowsOp, [x, pos])[0]!;
}

export const scaleImagesOp = defineOp({
  name: 'scale_images',
  formula: 'z[n] = y[n] * keep[n]',
  inputs: ['y', 'keep'],
  outputs: ['z'],
  shape: ([yy, k]) => {
    const y = need(yy, 'scale_images');
    const keep = need(k, 'scale_images');
    if (count(keep) !== y.shape[0] || y.shape.length < 2)
      refuse('scale_images', 'one factor an image', y, keep);
    return [{ shape: y.shape, elem: y.storage.elem }];
  },
  fields: { pointers: 'act y; real keep; act z', ints: 'C R ldy ldz add_z' },
  launch: (node: Node) => {
    const y = need(node.inputs[0], 'scale_images');
    const z = need(node.outputs[0], 'scale_images');
    return {
      pointers: [y, need(node.inputs[1], 'scale_images'), z],
      ints: [cols(y), rows(y) / (y.shape[0] ?? 1), y.ld, z.ld, flag(node.accumulate[0])],
      blocks: rows(y),
      lanes: cols(y),
    };
  },
  backward: (node, b) => {
    const [y = null, keep = null] = node.inputs;
    if (b.wants(keep)) refuse('scale_images', 'factors have no gradient', y, keep);
    const dz = b.grad(node.outputs[0] ?? null);
    const dy = b.sink(y);
    if (dz && dy) b.append(scaleImagesOp, [dz, keep], [dy]);
  },
  writes: ['either'],
  inPlace: [[0, 0]],
  cheap: true,
  tolerance: ROUNDED,
  flops: (node) => count(need(node.inputs[0], 'scale_images')),
});

/** Multiplies each image's values by one number (caption dropout: 0 or 1): y [N, .., C], keep [N] real. */
export function scaleImages(y: Tensor, keep: Tensor): Tensor {
  return traceOf(y).emit(scaleImagesOp, [y, keep])[0]!;
}

export const appendConstantOp = defineOp({
  name: 'append_constant',
  formula: 'y[n] = a[n] for n < N; every row of y[N + n] = v',
  inputs: ['a', 'v'],
  outputs: ['y'],
  shape: ([aa, vv]) => {
    const a = need(aa, 'append_constant');
    const v = need(vv, 'append_constant');
    const [N, T, C] = extents('append_constant', a);
    if (count(v) !== C || !isContiguous(v)) refuse('append_constant', 'row does not fit', a, v);
    return [{ shape: [2 * N, T, C], elem: a.storage.elem }];
  },
  fields: { pointers: 'act a v y', ints: 'C rows lda ldy' },
  launch: (node) => {
    const a = need(node.inputs[0], 'append_constant');
    const y = need(node.outputs[0], 'append_constant');
    return {
      pointers: [a, need(node.inputs[1], 'append_constant'), y],
      ints: [cols(a), rows(a), a.ld, y.ld],
      blocks: rows(y),
      lanes: cols(y),
    };
  },
  backward: 'only used for sampling',
  writes: ['set'],
  tolerance: EXACT,
  flops: () => 0,
});

/** a [N, T, C], then as many images whose every row is v [C]: -> [2 N, T, C]. Forward only. */
export function appendConstant(a: Tensor, v: Tensor): Tensor {
  return traceOf(a).emit(appendConstantOp, [a, v])[0]!;
}
