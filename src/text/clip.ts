// CLIP's text tower (Radford et al. 2021, arXiv 2103.00020), under OpenCLIP's names: token and position
// embeddings, pre-norm transformer blocks under a causal mask, ln_final. Padding (id 0) is a token like
// others.
import { geluErf, geluQuick } from '../plan/ops/act.ts';
import { causalAttention } from '../plan/ops/attention.ts';
import { expertLinear, linear } from '../plan/ops/linear.ts';
import { norm } from '../plan/ops/norm.ts';
import { residualNorm } from '../plan/ops/residual-norm.ts';
import { gatherRows } from '../plan/ops/rows.ts';
import { lookupWords } from '../plan/ops/words.ts';
import type { Handle, Parameters, Weights } from '../plan/params.ts';
import { cols, columns, reshape, rows, type Tensor } from '../plan/tensor.ts';
import type { ClipTextConfig } from './clip-config.ts';

/** nn.LayerNorm's own. */
const EPS = 1e-5;

/** A matrix or LayerNorm with its bias. */
export interface Affine {
  readonly weight: Handle;
  readonly bias: Handle;
}

export interface ResBlock {
  readonly ln1: Affine;
  readonly inProj: Affine;
  readonly outProj: Affine;
  readonly ln2: Affine;
  readonly fc: Affine;
  readonly proj: Affine;
}

export interface ClipText {
  readonly config: ClipTextConfig;
  readonly tokens: Handle;
  readonly positions: Handle;
  readonly blocks: readonly ResBlock[];
  readonly lnFinal: Affine;
  /** Null where only the states are wanted. */
  readonly projection: Handle | null;
}

export interface ClipContext {
  readonly weights: Weights;
  /** Rows of one text never depend on other texts, to the bit. */
  readonly exactRows: boolean;
  /** Sees the residual stream: `embed`, then `resblock.0` and so on (conformance tests). */
  readonly tap?: (name: string, value: Tensor) => void;
}

/** Declares frozen parameters under names that begin with `prefix`. */
export function declaring(p: Parameters, prefix = '') {
  const add = (name: string, shape: readonly number[]) =>
    p.add(prefix + name, shape, { kind: 'constant', value: 0 }, { frozen: true, decay: false });
  const affine = (name: string, shape: readonly number[], mark = '.'): Affine => ({
    weight: add(`${name}${mark}weight`, shape),
    bias: add(`${name}${mark}bias`, shape.slice(0, 1)),
  });
  /** Blocks of width C, F between. */
  const block = (i: number, C: number, F: number): ResBlock => {
    const at = `transformer.resblocks.${i}`;
    return {
      ln1: affine(`${at}.ln_1`, [C]),
      inProj: affine(`${at}.attn.in_proj`, [3 * C, C], '_'),
      outProj: affine(`${at}.attn.out_proj`, [C, C]),
      ln2: affine(`${at}.ln_2`, [C]),
      fc: affine(`${at}.mlp.c_fc`, [F, C]),
      proj: affine(`${at}.mlp.c_proj`, [C, F]),
    };
  };
  return { add, affine, block };
}

/** Declares all parameters of the tower, frozen; `pooled` adds the projection that `poolClip` needs. */
export function declareClipText(p: Parameters, config: ClipTextConfig, pooled = false): ClipText {
  const { vocab, context, width: C, hidden: F, layers, embed } = config;
  const { add, affine, block } = declaring(p);
  const positions = add('positional_embedding', [context, C]);
  const projection = pooled ? add('text_projection', [C, embed]) : null;
  const tokens = add('token_embedding.weight', [vocab, C]);
  const blocks = Array.from({ length: layers }, (_, i) => block(i, C, F));
  return { config, tokens, positions, blocks, lnFinal: affine('ln_final', [C]), projection };
}

/** ids [N, S, 2] i32, each a token and -1 (`idPairs`) -> states [N, S, C] after ln_final. */
export function encodeClip(g: ClipContext, tower: ClipText, ids: Tensor): Tensor {
  const { config, blocks, lnFinal } = tower;
  const w = (handle: Handle) => g.weights.use(handle);
  const x = lookupWords(w(tower.tokens), ids, w(tower.positions));
  g.tap?.('embed', x);
  return applyBlocks(g, { blocks, last: lnFinal, ...config, attend: causalAttention }, x);
}

/** A stack of blocks, and the norm of what comes out. */
export interface BlockStack {
  readonly blocks: readonly ResBlock[];
  readonly last: Affine;
  readonly heads: number;
  readonly quickGelu: boolean;
  readonly attend: (q: Tensor, k: Tensor, v: Tensor, heads: number) => Tensor;
}

/**
 * x [N, S, C] -> last(x) [N, S, C] after all blocks:
 *   x += attn(ln_1(x)); x += mlp(ln_2(x))
 */
export function applyBlocks(g: ClipContext, stack: BlockStack, input: Tensor): Tensor {
  const { blocks, last, heads, attend } = stack;
  const w = (handle: Handle) => g.weights.use(handle);
  const C = cols(input);
  const apply = (layer: Affine, x: Tensor) =>
    linear(x, w(layer.weight), w(layer.bias), g.exactRows ? rows(x) / x.shape[0]! : 0);
  const gelu = stack.quickGelu ? geluQuick : geluErf;

  let x = input;
  let h = layerNorm(g, x, blocks[0]?.ln1 ?? last);
  for (const [i, block] of blocks.entries()) {
    const qkv = apply(block.inProj, h);
    const [q, k, v] = [0, 1, 2].map((j) => columns(qkv, j * C, (j + 1) * C));
    const attended = apply(block.outProj, attend(q!, k!, v!, heads));
    [x, h] = addAndNorm(g, x, attended, block.ln2);
    const mlp = apply(block.proj, gelu(apply(block.fc, h)));
    [x, h] = addAndNorm(g, x, mlp, blocks[i + 1]?.ln1 ?? last);
    g.tap?.(`resblock.${i}`, x);
  }
  return h;
}

/** states [N, S, C], ends [N, 1] i32 (places of the end tokens) -> [N, embed], not normalised. */
export function poolClip(g: ClipContext, projection: Handle, states: Tensor, ends: Tensor): Tensor {
  const [N = 1, , C = 1] = states.shape;
  const w = g.weights.use(projection);
  const pooled = expertLinear(reshape(gatherRows(states, ends), [1, N, C]), reshape(w, [1, C, cols(w)]));
  return reshape(pooled, [N, cols(w)]);
}

/** Token ids as `encodeClip` reads them: lookupWords adds two rows of a table, the second one is left out. */
export function idPairs(ids: ArrayLike<number>): Int32Array {
  return Int32Array.from({ length: 2 * ids.length }, (_, i) => (i % 2 === 0 ? ids[i / 2]! : -1));
}

/** All rows as those of one image, and the bias as that image's shift: LayerNorm with weight and bias. */
const asOne = (x: Tensor) => reshape(x, [1, rows(x), cols(x)]);

export function layerNorm({ weights }: ClipContext, x: Tensor, { weight, bias }: Affine): Tensor {
  const shift = reshape(weights.use(bias), [1, cols(x)]);
  return reshape(norm(asOne(x), weights.use(weight), EPS, null, shift), x.shape);
}

/** [x + a, layerNorm(x + a)] */
function addAndNorm({ weights }: ClipContext, x: Tensor, a: Tensor, ln: Affine): [Tensor, Tensor] {
  const shift = reshape(weights.use(ln.bias), [1, cols(x)]);
  const [y, h] = residualNorm(asOne(x), null, asOne(a), weights.use(ln.weight), EPS, null, shift);
  return [reshape(y, x.shape), reshape(h, x.shape)];
}
