// Decoding in a bounded amount of memory: strips of image rows, equal to the decoding at once. A strip has as
// many rows beside its own as the convolutions look at, and the norms get the statistics of the whole image:
// a stretch of layers runs over all strips once for each of its norms (up to it, to sum its rows), and once
// more for the result. Whole tensors are kept by the host between stretches, as the backend's own bytes.
// Parts: shapes along the chain, the choice of stretches for a budget, their plans, their runs.
import type { Backend, Numbers } from '../backend/backend.ts';
import { Failure } from '../io/failure.ts';
import { convExtent } from '../plan/ops/conv.ts';
import { groupNorm, groupSums } from '../plan/ops/group-norm.ts';
import { imagePlanes, pixelRows } from '../plan/ops/planes.ts';
import { Weights } from '../plan/params.ts';
import { freeze, type Plan } from '../plan/plan.ts';
import { Runner } from '../plan/runner.ts';
import type { Tensor } from '../plan/tensor.ts';
import { Trace } from '../plan/trace.ts';
import { type Autoencoder, applyChain, type Layer } from '../vae/autoencoder.ts';
import { type Context, EPS, type Norm } from '../vae/layers.ts';
import { type LoadedWeights, regionsOf } from './weights.ts';

/** Height, width and channels of what lies between two layers. */
interface Shape {
  readonly H: number;
  readonly W: number;
  readonly C: number;
}

/** Layers `from`..`to` - 1, over strips of `rows` rows of their input. */
export interface Stretch {
  readonly from: number;
  readonly to: number;
  readonly rows: number;
}

/** The first `whole` layers at once, then stretches. */
export interface Tiling {
  readonly whole: number;
  readonly stretches: readonly Stretch[];
  /** Memory at the worst moment, without the weights. */
  readonly bytes: number;
  /** Floating point operations, those done again included. */
  readonly flops: number;
}

/** Elements of a convolution's band in a strip: less than for whole images, since the strip is small. */
const STRIP_BAND = 2 ** 20;
/** Rows of a strip that are tried, of its stretch's input. */
const STRIP_ROWS = [64, 32, 16, 8, 4] as const;
const LEAST_ROWS = 4;

/** What the strips of one decoder need. */
export interface Decoder {
  readonly backend: Backend;
  readonly model: Autoencoder;
  readonly weights: LoadedWeights;
}

const planBytes = ({ program }: Plan) =>
  Object.entries(program.spaceBytes).reduce((sum, [space, bytes]) => {
    return sum + (space === 'arena' || space === 'input' ? bytes : 0);
  }, 0);

function convOf(layer: Layer) {
  return layer.kind === 'conv' || layer.kind === 'head' ? layer.conv : null;
}

/** Shapes before every layer, and after the last. */
function shapesOf(layers: readonly Layer[], first: Shape): readonly Shape[] {
  const shapes = [first];
  for (const layer of layers) {
    const { H, W, C } = shapes.at(-1)!;
    const conv = convOf(layer);
    const out = layer.kind === 'resnet' ? layer.resnet.conv1.out : (conv?.out ?? C);
    const extent = (n: number) => (conv ? convExtent(n, conv.form) : n);
    shapes.push({ H: extent(H), W: extent(W), C: out });
  }
  return shapes;
}

/** Rows of its input that a stretch looks at beyond the rows of a strip, on each side. */
function halo(layers: readonly Layer[]): number {
  let rows = 0;
  for (const layer of layers.toReversed()) {
    if (layer.kind === 'resnet') rows += 2;
    const conv = convOf(layer);
    if (conv) rows = Math.ceil((rows + (conv.form.k - 1) / 2) / conv.form.up);
  }
  return rows;
}

/** A norm met in a stretch, and what it normalises: `scale` rows for each row of the stretch's input. */
interface Met {
  readonly norm: Norm;
  readonly C: number;
  readonly W: number;
  readonly scale: number;
  /** Floating point operations of a strip up to here. */
  readonly before: number;
}

interface StripPlan {
  readonly plan: Plan;
  readonly norms: readonly Met[];
}

interface Found {
  readonly list: readonly Stretch[];
  readonly bytes: number;
  readonly flops: number;
}

/** Rows of a strip of one stretch, with what they take. */
interface Fit {
  readonly rows: number;
  readonly bytes: number;
  readonly flops: number;
}

type Fits = Map<string, Fit | null>;

/** A search for stretches of at most `most` layers, and what it knows of each and of what follows. */
interface Search {
  readonly memory: number;
  readonly most: number;
  readonly fits: Fits;
  readonly known: Map<number, Found | null>;
}

/** Strips of one decoder for latents of one size. */
export class Strips {
  private readonly layers: readonly Layer[];
  private readonly shapes: readonly Shape[];

  constructor(
    private readonly decoder: Decoder,
    latent: { readonly height: number; readonly width: number },
  ) {
    const { model } = decoder;
    this.layers = model.decoder;
    const C = model.config.latent_channels;
    this.shapes = shapesOf(this.layers, { H: latent.height, W: latent.width, C });
  }

  /**
   * A tiling within `memory` bytes beside the weights: of those whose stretches have the fewest layers at
   * most, the one that computes least; a Failure where there is none.
   */
  tiling(memory: number): Tiling {
    const attends = this.layers.findLastIndex(({ kind }) => kind === 'attention');
    const heads: { whole: number; bytes: number; flops: number }[] = [];
    let least = Number.POSITIVE_INFINITY;
    for (let whole = this.layers.length; whole > attends; whole--) {
      const plan = this.wholePlan(whole);
      const bytes = planBytes(plan) + this.bytesAt(whole);
      least = Math.min(least, bytes);
      if (bytes > memory) continue;
      heads.push({ whole, bytes, flops: plan.flops });
      if (whole === this.layers.length) break;
    }
    const fits: Fits = new Map();
    for (let most = 2; most <= this.layers.length && heads.length > 0; most++) {
      const search = { memory, most, fits, known: new Map() };
      const tilings = heads.flatMap(({ whole, bytes, flops }): Tiling[] => {
        const rest = this.stretches(whole, search);
        if (!rest) return [];
        const both = { bytes: Math.max(bytes, rest.bytes), flops: flops + rest.flops };
        return [{ whole, stretches: rest.list, ...both }];
      });
      if (tilings.length > 0) return tilings.reduce((a, b) => (b.flops < a.flops ? b : a));
    }
    const mib = (bytes: number) => `${Math.ceil(bytes / 2 ** 20)} MiB`;
    const { H, W } = this.shapes.at(-1)!;
    throw new Failure({
      what: `decoding ${W} x ${H} pixels in ${mib(memory)}`,
      why: 'this is too little even in strips',
      fix: `Allow more than ${mib(Math.max(least, memory))} beside the weights, or make a smaller picture`,
    });
  }

  /** latent [z, height, width] -> picture [out_channels, f height, f width]. */
  decode(latent: ArrayLike<number>, { whole, stretches }: Tiling): Numbers {
    const { backend } = this.decoder;
    const first = this.runner(this.wholePlan(whole));
    first.set('x', latent);
    first.run();
    if (stretches.length === 0) {
      const picture = first.get('y');
      first.free();
      return picture;
    }
    let tensor = new Uint8Array(this.bytesAt(whole));
    readBytes(backend, first, 'y', 0, tensor);
    first.free();
    for (const stretch of stretches.slice(0, -1)) {
      const next = new Uint8Array(this.bytesAt(stretch.to));
      const row = next.length / this.shapes[stretch.to]!.H;
      this.pass(stretch, tensor, (runner, { from, to, first, scale }) => {
        readBytes(
          backend,
          runner,
          'y',
          (from - first) * scale * row,
          next.subarray(from * scale * row, to * scale * row),
        );
      });
      tensor = next;
      // The last tensor is large and counts: it goes now, not when the collector gets to it.
      Bun.gc(true);
    }
    const { H, W, C } = this.shapes.at(-1)!;
    const picture = backend.elemBytes.real === 8 ? new Float64Array(C * H * W) : new Float32Array(C * H * W);
    this.pass(stretches.at(-1)!, tensor, (runner, { from, to, first, rows, scale }) => {
      const planes = runner.get('y');
      for (let c = 0; c < C; c++) {
        const own = (c * rows + from - first) * scale * W;
        picture.set(planes.subarray(own, own + (to - from) * scale * W), (c * H + from * scale) * W);
      }
    });
    return picture;
  }

  private bytesAt(at: number): number {
    const { H, W, C } = this.shapes[at]!;
    const { act, real } = this.decoder.backend.elemBytes;
    return H * W * C * (at === this.layers.length ? real : act);
  }

  /** Stretches from layer `at` to the end; null where none fit. */
  private stretches(at: number, search: Search): Found | null {
    const { memory, most, fits, known } = search;
    if (at === this.layers.length) return { list: [], bytes: 0, flops: 0 };
    const before = known.get(at);
    if (before !== undefined) return before;
    let found: Found | null = null;
    for (let to = at + 1; to <= Math.min(at + most, this.layers.length); to++) {
      const kept = this.bytesAt(at) + this.bytesAt(to);
      const key = `${at}-${to}`;
      let fit = fits.get(key);
      if (fit === undefined) {
        fit = kept <= memory ? this.fitting(at, to, memory - kept) : null;
        fits.set(key, fit);
      }
      const rest = fit && this.stretches(to, search);
      if (!fit || !rest || (found && fit.flops + rest.flops >= found.flops)) continue;
      const list = [{ from: at, to, rows: fit.rows }, ...rest.list];
      found = { list, bytes: Math.max(kept + fit.bytes, rest.bytes), flops: fit.flops + rest.flops };
    }
    known.set(at, found);
    return found;
  }

  /** The most rows of a strip whose plan takes `memory` bytes at most. */
  private fitting(from: number, to: number, memory: number): Fit | null {
    const planOf = (rows: number) => this.stripPlan({ from, to, rows }, null);
    if (planBytes(planOf(LEAST_ROWS).plan) > memory) return null;
    for (const rows of STRIP_ROWS) {
      const { plan, norms } = planOf(rows);
      const bytes = planBytes(plan);
      if (bytes > memory) continue;
      const strip = norms.reduce((sum, { before }) => sum + before, plan.flops);
      return { rows, bytes, flops: Math.ceil(this.shapes[from]!.H / rows) * strip };
    }
    return null;
  }

  private wholePlan(whole: number): Plan {
    const { H, W, C } = this.shapes[0]!;
    const trace = new Trace();
    const y = applyChain(
      this.context(trace),
      this.layers.slice(0, whole),
      pixelRows(trace.input('x', [1, C, H, W], 'real')),
    );
    trace.output('y', whole === this.layers.length ? imagePlanes(y) : y);
    return freeze('decoder', trace, { elemBytes: this.decoder.backend.elemBytes });
  }

  /** Rows of a strip with those beside it: all strips of a stretch have as many, so one plan does for all. */
  private window({ from, to, rows }: Stretch): number {
    return Math.min(this.shapes[from]!.H, rows + 2 * halo(this.layers.slice(from, to)));
  }

  /** A stretch over one strip: up to the sums of its norm number `pass`, or, for null, to its end. */
  private stripPlan(stretch: Stretch, pass: number | null): StripPlan {
    const { from, to } = stretch;
    const rows = this.window(stretch);
    const { W, C } = this.shapes[from]!;
    const trace = new Trace();
    const norms: Met[] = [];
    let end = 0;
    const statistics: Context['statistics'] = (norm, x) => {
      const k = norms.length;
      const [, height = 0, width = 0, channels = 0] = x.shape;
      const before = trace.nodes.reduce((sum, node) => sum + node.op.flops(node), 0);
      norms.push({ norm, C: channels, W: width, scale: height / rows, before });
      if (k === pass) {
        trace.output('sums', groupSums(x));
        end = trace.nodes.length;
      }
      const vector = (name: string): Tensor =>
        pass === null || k < pass
          ? trace.input(`${name}${k}`, [1, channels], 'real')
          : trace.fresh({ shape: [1, channels], elem: 'real' }, name);
      return { mean: vector('mean'), factor: vector('factor') };
    };
    const g = { ...this.context(trace), band: STRIP_BAND, statistics };
    const y = applyChain(g, this.layers.slice(from, to), trace.input('x', [1, rows, W, C], 'act'));
    if (pass === null) trace.output('y', to === this.layers.length ? imagePlanes(y) : y);
    // What comes after the sums is not wanted.
    else trace.nodes.length = end;
    const plan = freeze('strip', trace, { elemBytes: this.decoder.backend.elemBytes });
    return { plan, norms };
  }

  /** Runs a stretch over a whole tensor; `take` gets every strip's runner when its result is there. */
  private pass(stretch: Stretch, tensor: Uint8Array, take: (runner: Runner, strip: Strip) => void): void {
    const known: Statistics[] = [];
    const { norms } = this.stripPlan(stretch, null);
    for (const [k, met] of norms.entries()) {
      const height = this.shapes[stretch.from]!.H * met.scale;
      const sums = new Float64Array(height * 2 * met.C);
      this.sweep(stretch, k, known, tensor, (runner, { from, to, first }) => {
        const own = (row: number) => row * met.scale * 2 * met.C;
        sums.set(runner.get('sums').subarray(own(from - first), own(to - first)), own(from));
      });
      known.push(this.merge(met, height, sums));
    }
    this.sweep(stretch, null, known, tensor, take);
  }

  private sweep(
    stretch: Stretch,
    pass: number | null,
    known: readonly Statistics[],
    tensor: Uint8Array,
    take: (runner: Runner, strip: Strip) => void,
  ): void {
    const { backend } = this.decoder;
    const runner = this.runner(this.stripPlan(stretch, pass).plan);
    for (const [k, { mean, factor }] of known.entries()) {
      runner.set(`mean${k}`, mean);
      runner.set(`factor${k}`, factor);
    }
    const { H } = this.shapes[stretch.from]!;
    const scale = this.shapes[stretch.to]!.H / H;
    const rows = this.window(stretch);
    const beside = halo(this.layers.slice(stretch.from, stretch.to));
    const row = tensor.length / H;
    const port = runner.plan.inputs.get('x')!;
    for (let from = 0; from < H; from += stretch.rows) {
      const first = Math.max(0, Math.min(from - beside, H - rows));
      backend.write(
        runner.regions[port.space]!,
        port.offset,
        tensor.subarray(first * row, (first + rows) * row),
      );
      runner.run();
      take(runner, { from, to: Math.min(H, from + stretch.rows), first, rows, scale });
    }
    runner.free();
  }

  /** Statistics of the whole image, by the kernel that an undivided image has them from. */
  private merge({ norm, C, W }: Met, height: number, values: Float64Array): Statistics {
    const trace = new Trace();
    const g = this.context(trace);
    const w = g.weights.use(norm.weight);
    const sums = trace.input('sums', [1, height, 2 * C], 'real');
    const of = groupNorm(sums, { w, bias: w }, { W, G: g.groups, eps: EPS, silu: norm.silu });
    trace.output('mean', of.mean);
    trace.output('factor', of.factor);
    const runner = this.runner(freeze('statistics', trace, { elemBytes: this.decoder.backend.elemBytes }));
    runner.set('sums', values);
    runner.run();
    const result = { mean: runner.get('mean'), factor: runner.get('factor') };
    runner.free();
    return result;
  }

  private context(trace: Trace): Context {
    const { model, backend } = this.decoder;
    return {
      weights: new Weights(trace, model.parameters, false),
      groups: model.config.norm_num_groups,
      whole: backend.convolvesWhole?.() ?? false,
    };
  }

  private runner(plan: Plan): Runner {
    return new Runner(this.decoder.backend, plan, regionsOf(this.decoder.weights));
  }
}

interface Statistics {
  readonly mean: Numbers;
  readonly factor: Numbers;
}

/** Rows `from`..`to` - 1 of a stretch's input are the strip's own; the window begins at row `first`. */
interface Strip {
  readonly from: number;
  readonly to: number;
  readonly first: number;
  readonly rows: number;
  /** Rows of the result for each row of the input. */
  readonly scale: number;
}

/** Bytes of an output from byte `from` on, as the backend keeps them. */
function readBytes(backend: Backend, runner: Runner, name: string, from: number, into: Uint8Array): void {
  const port = runner.plan.outputs.get(name)!;
  backend.read(runner.regions[port.space]!, port.offset + from, into);
}
