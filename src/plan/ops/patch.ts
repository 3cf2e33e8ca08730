// Ops: images to patch tokens and back.
import { defineOp, need, refuse } from '../op.ts';
import { cols, count, isContiguous, type Tensor } from '../tensor.ts';
import { traceOf } from '../trace.ts';
import { checkIds } from './rows.ts';

/** Extents of images [N, Ch, H, W] that T patches of p x p cover. */
export function imageExtents(
  op: string,
  x: Tensor,
  p: number,
): { N: number; Ch: number; H: number; W: number; T: number } {
  const [N = 1, Ch = 1, H = 1, W = 1] = x.shape;
  if (x.shape.length !== 4 || !isContiguous(x)) refuse(op, 'needs images [N, Ch, H, W]', x);
  if (!(p > 0) || H % p !== 0 || W % p !== 0) refuse(op, `patches of ${p} do not cover the image`, x);
  return { N, Ch, H, W, T: (H / p) * (W / p) };
}

export const patchifyOp = defineOp({
  name: 'patchify',
  formula: 'y[n, (h, w), (c, i, j)] = x[n, c, h p + i, w p + j] * scale[n]',
  inputs: ['x', 'scale?'],
  outputs: ['y'],
  shape: ([xx, scale], { p = 0 }) => {
    const x = need(xx, 'patchify');
    const { N, Ch, T } = imageExtents('patchify', x, p);
    if (scale && count(scale) !== N) refuse('patchify', 'one factor an image', x, scale);
    return [{ shape: [N, T, Ch * p * p], elem: 'act' }];
  },
  fields: { pointers: 'real x scale; act y', ints: 'Ch H W p ldy' },
  launch: (node) => {
    const x = need(node.inputs[0], 'patchify');
    const y = need(node.outputs[0], 'patchify');
    const { p = 1 } = node.attrs;
    const { N, Ch, H, W } = imageExtents('patchify', x, p);
    return { pointers: [x, node.inputs[1] ?? null, y], ints: [Ch, H, W, p, y.ld], blocks: (N * H) / p };
  },
  backward: 'images are data',
  writes: ['set'],
  cheap: true,
  tolerance: { nmse: 1e-13, why: 'one product per element' },
  flops: (node) => (node.inputs[1] ? count(need(node.inputs[0], 'patchify')) : 0),
});

/**
 * Images x [N, Ch, H, W] real, each times scale[n] (c_in; null: 1), as tokens [N, H W / p^2, Ch p p] in the
 * order of a convolution's weight (channel, row, column), so that patch embedding is a linear layer.
 */
export function patchify(x: Tensor, p: number, scale: Tensor | null = null): Tensor {
  return traceOf(x).emit(patchifyOp, [x, scale], { p })[0]!;
}

export const unpatchifyOp = defineOp({
  name: 'unpatchify',
  formula:
    'y[n, c, h p + i, w p + j] = tokens[n, slots[n, (h, w)]][(i, j, c)]; mask token where the slot is -1',
  inputs: ['tokens', 'slots?', 'mask_token?'],
  outputs: ['y'],
  shape: ([t, slots, mask], { Ch = 0, p = 0, H = 0, W = 0 }) => {
    const tokens = need(t, 'unpatchify');
    const [N = 1, K] = tokens.shape;
    const T = (H / p) * (W / p);
    if (tokens.shape.length !== 3 || cols(tokens) !== p * p * Ch || H % p !== 0 || W % p !== 0) {
      refuse('unpatchify', `does not make images [${N}, ${Ch}, ${H}, ${W}] of ${p} x ${p} patches`, tokens);
    }
    if (slots) checkIds('unpatchify', slots, N);
    if (slots ? cols(slots) !== T : K !== T) refuse('unpatchify', `needs ${T} tokens`, tokens, slots ?? null);
    if (mask && count(mask) !== cols(tokens)) refuse('unpatchify', 'mask token does not fit', tokens, mask);
    return [{ shape: [N, Ch, H, W], elem: 'real' }];
  },
  fields: { pointers: 'act tokens; i32 slots; act mask_token; real y', ints: 'Ch H W p K ldtokens' },
  launch: (node) => {
    const [t, slots = null, mask = null] = node.inputs;
    const tokens = need(t, 'unpatchify');
    const { Ch = 1, p = 1, H = 1, W = 1 } = node.attrs;
    const [N = 1, K = 1] = tokens.shape;
    return {
      pointers: [tokens, slots, mask, need(node.outputs[0], 'unpatchify')],
      ints: [Ch, H, W, p, K, tokens.ld],
      blocks: (N * H) / p,
    };
  },
  backward: 'the loss is taken over tokens',
  writes: ['set'],
  tolerance: { nmse: 0, why: 'copies' },
  flops: () => 0,
});

/**
 * Tokens [N, K, p p Ch] in the order (row, column, channel) as images [N, Ch, H, W] real; W is H when left
 * out. slots [N, T] i32 (keepSlots) says which token shows at each patch; where it is -1, maskToken [p p Ch]
 * shows, or zeros. Forward only.
 */
export function unpatchify(
  tokens: Tensor,
  slots: Tensor | null,
  maskToken: Tensor | null,
  Ch: number,
  p: number,
  H: number,
  W = H,
): Tensor {
  return traceOf(tokens).emit(unpatchifyOp, [tokens, slots, maskToken], { Ch, p, H, W })[0]!;
}
