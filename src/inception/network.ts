// Inception v3 as FID uses it (Szegedy et al. 2015, arXiv 1512.00567; pytorch-fid's InceptionV3 over
// torchvision's Inception3), up to the mean over all pixels: 2048 features of an image. Images are
// [N, 299, 299, 3] in [-1, 1]. A batch norm stands in the convolution before it (fold.ts).
import { relu } from '../plan/ops/act.ts';
import { maxPool, meanPool, square, type WindowForm, windowConv } from '../plan/ops/window.ts';
import { type Handle, type Init, Parameters, type Weights } from '../plan/params.ts';
import { cols, columns, reshape, type Tensor } from '../plan/tensor.ts';
import { traceOf } from '../plan/trace.ts';

/** Side of the images, and the number of features. */
export const INCEPTION_SIDE = 299;
export const INCEPTION_FEATURES = 2048;

/** A convolution with its batch norm and ReLU, torchvision's BasicConv2d. */
export interface ConvLayer {
  readonly name: string;
  readonly form: WindowForm;
  readonly inn: number;
  readonly out: number;
  /** [out, kh, kw, in], the batch norm's factor in it. */
  readonly weight: Handle;
  readonly bias: Handle;
}

/** What stands in the place of a layer inside a branch: a layer, or layers side by side. */
type Step = ConvLayer | readonly ConvLayer[];
type Pool = 'mean' | 'max' | 'reduce';

interface Branch {
  /** Before the steps. `mean` and `max` keep the size, `reduce` is a max pool with stride 2. */
  readonly pool: Pool | null;
  readonly steps: readonly Step[];
}

interface Block {
  readonly name: string;
  readonly branches: readonly Branch[];
}

export interface Inception {
  readonly parameters: Parameters;
  readonly layers: readonly ConvLayer[];
  readonly stem: readonly ConvLayer[];
  readonly blocks: readonly Block[];
}

const zeros: Init = { kind: 'constant', value: 0 };
const WIDE: WindowForm = { kh: 1, kw: 7, stride: 1, padH: 0, padW: 3 };
const TALL: WindowForm = { kh: 7, kw: 1, stride: 1, padH: 3, padW: 0 };
const WIDE3: WindowForm = { kh: 1, kw: 3, stride: 1, padH: 0, padW: 1 };
const TALL3: WindowForm = { kh: 3, kw: 1, stride: 1, padH: 1, padW: 0 };
const POINT = square(1);
const SAME = square(3, 1, 1);
const HALVE = square(3, 2);

type LayerSpec = readonly [name: string, out: number, form: WindowForm];

class Declaration {
  readonly parameters = new Parameters();
  readonly layers: ConvLayer[] = [];

  layer(name: string, inn: number, out: number, form: WindowForm): ConvLayer {
    const weight = this.parameters.add(`${name}.weight`, [out, form.kh, form.kw, inn], zeros);
    const bias = this.parameters.add(`${name}.bias`, [out], zeros);
    const layer = { name, form, inn, out, weight, bias };
    this.layers.push(layer);
    return layer;
  }

  /** Branches of a block by the names of their layers; a list of layers stands for those side by side. */
  block(
    name: string,
    inn: number,
    branches: readonly (readonly (Pool | LayerSpec | readonly LayerSpec[])[])[],
  ): Block {
    return {
      name,
      branches: branches.map((parts) => {
        const [head] = parts;
        const pool = typeof head === 'string' ? head : null;
        let width = inn;
        const steps: Step[] = [];
        for (const part of parts) {
          if (typeof part === 'string') continue;
          const own = ([leaf, out, form]: LayerSpec) => this.layer(`${name}.${leaf}`, width, out, form);
          const step = isLayer(part) ? own(part) : part.map(own);
          steps.push(step);
          width = widthOf(step);
        }
        return { pool, steps };
      }),
    };
  }
}

function isLayer(part: LayerSpec | readonly LayerSpec[]): part is LayerSpec {
  return typeof part[0] === 'string';
}

function widthOf(step: Step): number {
  return 'form' in step ? step.out : step.reduce((sum, { out }) => sum + out, 0);
}

/** The layers with torchvision's names. */
export function declareInception(): Inception {
  const d = new Declaration();
  const stem = [
    d.layer('Conv2d_1a_3x3', 3, 32, HALVE),
    d.layer('Conv2d_2a_3x3', 32, 32, square(3)),
    d.layer('Conv2d_2b_3x3', 32, 64, SAME),
    d.layer('Conv2d_3b_1x1', 64, 80, POINT),
    d.layer('Conv2d_4a_3x3', 80, 192, square(3)),
  ];
  const A = (name: string, inn: number, pooled: number) =>
    d.block(name, inn, [
      [['branch1x1', 64, POINT]],
      [
        ['branch5x5_1', 48, POINT],
        ['branch5x5_2', 64, square(5, 1, 2)],
      ],
      [
        ['branch3x3dbl_1', 64, POINT],
        ['branch3x3dbl_2', 96, SAME],
        ['branch3x3dbl_3', 96, SAME],
      ],
      ['mean', ['branch_pool', pooled, POINT]],
    ]);
  const C = (name: string, c7: number) =>
    d.block(name, 768, [
      [['branch1x1', 192, POINT]],
      [
        ['branch7x7_1', c7, POINT],
        ['branch7x7_2', c7, WIDE],
        ['branch7x7_3', 192, TALL],
      ],
      [
        ['branch7x7dbl_1', c7, POINT],
        ['branch7x7dbl_2', c7, TALL],
        ['branch7x7dbl_3', c7, WIDE],
        ['branch7x7dbl_4', c7, TALL],
        ['branch7x7dbl_5', 192, WIDE],
      ],
      ['mean', ['branch_pool', 192, POINT]],
    ]);
  // pytorch-fid's FIDInceptionE_2 takes the largest number where torchvision takes the mean.
  const E = (name: string, inn: number, pool: Pool) =>
    d.block(name, inn, [
      [['branch1x1', 320, POINT]],
      [
        ['branch3x3_1', 384, POINT],
        [
          ['branch3x3_2a', 384, WIDE3],
          ['branch3x3_2b', 384, TALL3],
        ],
      ],
      [
        ['branch3x3dbl_1', 448, POINT],
        ['branch3x3dbl_2', 384, SAME],
        [
          ['branch3x3dbl_3a', 384, WIDE3],
          ['branch3x3dbl_3b', 384, TALL3],
        ],
      ],
      [pool, ['branch_pool', 192, POINT]],
    ]);
  const blocks = [
    ...[A('Mixed_5b', 192, 32), A('Mixed_5c', 256, 64), A('Mixed_5d', 288, 64)],
    d.block('Mixed_6a', 288, [
      [['branch3x3', 384, HALVE]],
      [
        ['branch3x3dbl_1', 64, POINT],
        ['branch3x3dbl_2', 96, SAME],
        ['branch3x3dbl_3', 96, HALVE],
      ],
      ['reduce'],
    ]),
    ...[C('Mixed_6b', 128), C('Mixed_6c', 160), C('Mixed_6d', 160), C('Mixed_6e', 192)],
    d.block('Mixed_7a', 768, [
      [
        ['branch3x3_1', 192, POINT],
        ['branch3x3_2', 320, HALVE],
      ],
      [
        ['branch7x7x3_1', 192, POINT],
        ['branch7x7x3_2', 192, WIDE],
        ['branch7x7x3_3', 192, TALL],
        ['branch7x7x3_4', 192, HALVE],
      ],
      ['reduce'],
    ]),
    ...[E('Mixed_7b', 1280, 'mean'), E('Mixed_7c', 2048, 'max')],
  ];
  return { parameters: d.parameters, layers: d.layers, stem, blocks };
}

/** Sees the output of every module [N, H, W, C] under its name. */
type Tap = (name: string, value: Tensor) => void;

/** Images x [N, 299, 299, 3] in [-1, 1] -> features [N, 2048]. */
export function applyInception(
  weights: Weights,
  { stem, blocks }: Inception,
  images: Tensor,
  tap: Tap = () => {},
): Tensor {
  let x = images;
  const seen = (name: string, value: Tensor) => {
    tap(name, value);
    return value;
  };
  for (const layer of stem) {
    x = seen(layer.name, convRelu(weights, layer, x));
    if (layer.name === 'Conv2d_2b_3x3') x = seen('pool1', maxPool(x, { k: 3, stride: 2 }));
    if (layer.name === 'Conv2d_4a_3x3') x = seen('pool2', maxPool(x, { k: 3, stride: 2 }));
  }
  for (const block of blocks) x = seen(block.name, applyBlock(weights, block, x));
  const [N = 0, H = 0] = x.shape;
  return reshape(meanPool(x, { k: H }), [N, cols(x)]);
}

function convRelu(weights: Weights, layer: ConvLayer, x: Tensor, to: Tensor | null = null): Tensor {
  const y = windowConv(x, weights.use(layer.weight), weights.use(layer.bias), layer.form);
  return relu(y, to);
}

/** Every branch writes its own channels of the result. */
function applyBlock(weights: Weights, { name, branches }: Block, x: Tensor): Tensor {
  const halves = branches.some(({ pool }) => pool === 'reduce');
  const [N = 0, H = 0, W = 0, C = 0] = x.shape;
  const side = (n: number) => (halves ? Math.floor((n - 3) / 2) + 1 : n);
  const width = ({ steps }: Branch) => (steps.length > 0 ? widthOf(steps.at(-1)!) : C);
  const total = branches.reduce((sum, branch) => sum + width(branch), 0);
  const y = traceOf(x).fresh({ shape: [N, side(H), side(W), total], elem: 'act' }, name);
  let at = 0;
  for (const branch of branches) {
    applyBranch(weights, branch, x, columns(y, at, at + width(branch)));
    at += width(branch);
  }
  return y;
}

function applyBranch(weights: Weights, { pool, steps }: Branch, x: Tensor, to: Tensor): void {
  if (pool === 'reduce') {
    maxPool(x, { k: 3, stride: 2 }, to);
    return;
  }
  const kept = { k: 3, stride: 1, pad: 1 };
  let h = pool === 'mean' ? meanPool(x, kept) : pool === 'max' ? maxPool(x, kept) : x;
  for (const [i, step] of steps.entries()) {
    const into = i === steps.length - 1 ? to : null;
    if ('form' in step) {
      h = convRelu(weights, step, h, into);
      continue;
    }
    let at = 0;
    for (const layer of step) {
      convRelu(weights, layer, h, columns(to, at, at + layer.out));
      at += layer.out;
    }
  }
}
