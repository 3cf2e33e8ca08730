// A network of any shape with random weights and inputs, run on one library: outputs, losses, gradients,
// denoiser. Used to hold the float32 library against the float64 one, and that against finite differences.
import type { Backend, Region } from '../../src/backend/backend.ts';
import { tokensToImage } from '../../src/diffusion/edm.ts';
import { type ModelConfig, tokenCount } from '../../src/model/config.ts';
import { denoiseTokens, directView, embedCaption } from '../../src/model/dit.ts';
import { STATE_SIZE } from '../../src/plan/ops/optimizer.ts';
import { patchify } from '../../src/plan/ops/patch.ts';
import type { Parameter } from '../../src/plan/params.ts';
import { freeze } from '../../src/plan/plan.ts';
import { Runner } from '../../src/plan/runner.ts';
import { product, reshape, type Tensor } from '../../src/plan/tensor.ts';
import { Trace } from '../../src/plan/trace.ts';
import { Denoiser, type Guidance } from '../../src/sample/denoiser.ts';
import { contextFor, declareNetwork, type Network } from '../../src/sample/network.ts';
import {
  allocFlat,
  type LoadedWeights,
  readParameter,
  regionsOf,
  writeParameter,
} from '../../src/sample/weights.ts';
import { finishMicroStep, traceLoss } from '../../src/train/step.ts';
import { PlainDiT } from './network-plain.ts';
import { randomValues } from './op-case.ts';

export interface NetworkCase {
  readonly config: ModelConfig;
  /** Images N, caption length S, kept tokens K (null: all). */
  readonly N: number;
  readonly S: number;
  readonly K: number | null;
  readonly seed: number;
}

export const SIGMA_DATA = 0.9;

/** Values of every parameter: as large as trained ones, none special. */
export function parameterValues(p: Parameter, seed: number): Float64Array {
  const values = randomValues(p.count, seed * 1009 + p.index + 1);
  if (/norm\d?\.weight$|norm_final|map_\w+\.0\.weight/.test(p.name))
    return values.map((v) => Math.fround(1 + 0.2 * v));
  const fanIn = p.shape.length === 3 ? p.shape[1]! : product(p.shape.slice(1));
  const scale = p.shape.length > 1 && !p.tags.frozen ? 1.5 / Math.sqrt(fanIn) : 0.3;
  return values.map((v) => Math.fround(scale * v));
}

/** One network on one library. */
export class NetworkRun {
  readonly network: Network;
  readonly weights: Region;
  readonly loaded: LoadedWeights;
  private readonly inputs: Readonly<Record<string, ArrayLike<number>>>;

  constructor(
    readonly backend: Backend,
    readonly c: NetworkCase,
  ) {
    this.network = declareNetwork({ ...c.config, masking: c.config.masking ?? 'deferred' } as never, null);
    const { parameters } = this.network;
    this.weights = allocFlat(backend, parameters, 'all');
    this.loaded = { weight: this.weights, master: this.weights };
    for (const p of parameters.list) this.write(p, parameterValues(p, c.seed));
    const { in_channels, input_size, caption_channels } = c.config;
    const pixels = c.N * in_channels * input_size ** 2;
    const draw = (count: number, what: number) => randomValues(count, c.seed * 31 + what);
    this.inputs = {
      x: draw(pixels, 1).map((v) => 1.7 * v),
      x0: draw(pixels, 2),
      noise: draw(pixels, 3).map((v) => 1.7 * v),
      t: draw(c.N, 4),
      sigma: draw(c.N, 5).map((v) => Math.fround(Math.exp(1.2 * v - 0.6))),
      y: draw(c.N * c.S * caption_channels, 6),
      ids: this.ids(),
    };
  }

  /** Distinct kept tokens in no order. */
  private ids(): Int32Array {
    const { N, K, seed, config } = this.c;
    const T = tokenCount(config);
    const keys = randomValues(N * T, seed + 77);
    return Int32Array.from({ length: N }, (_, n) => n).reduce(
      (ids, n) => {
        const order = Array.from({ length: T }, (_, t) => t).sort(
          (a, b) => keys[n * T + a]! - keys[n * T + b]!,
        );
        ids.set(order.slice(0, K ?? 0), n * (K ?? 0));
        return ids;
      },
      new Int32Array(N * (K ?? 0)),
    );
  }

  write(p: Parameter, values: Float64Array): void {
    const exact = this.backend.elemBytes.act === 8;
    writeParameter(this.backend, this.weights, p, exact ? values : Float32Array.from(values));
  }

  read(p: Parameter): Float64Array {
    return Float64Array.from(readParameter(this.backend, this.weights, p));
  }

  private runner(trace: Trace, regions: Record<string, Region>): Runner {
    const plan = freeze('case', trace, { elemBytes: this.backend.elemBytes });
    const runner = new Runner(this.backend, plan, { ...regionsOf(this.loaded), ...regions });
    this.backend.fill(runner.regions.arena!, 0xff); // NaN: nothing may be read before it is written
    for (const name of plan.inputs.keys()) runner.set(name, this.inputs[name]!);
    return runner;
  }

  private caption(trace: Trace): Tensor {
    return trace.input('y', [this.c.N, this.c.S, this.c.config.caption_channels], 'act');
  }

  private kept(trace: Trace): Tensor | null {
    return this.c.K === null ? null : trace.input('ids', [this.c.N, this.c.K], 'i32');
  }

  /** The network's image, and the tokens that every expert took. */
  forward(): { out: Float64Array; routes: Map<string, Float64Array> } {
    const { dit } = this.network;
    const { in_channels: channels, input_size: size, patch_size: patchSize } = dit.config;
    const trace = new Trace();
    const tap = (name: string, value: Tensor) => {
      if (name.endsWith('topk_indices')) trace.output(name, value);
    };
    const g = contextFor(this.network, trace, { tap });
    const x = trace.input('x', [this.c.N, channels, size, size], 'real');
    const caption = embedCaption(g, dit, this.caption(trace));
    const ids = this.kept(trace);
    const t = trace.input('t', [this.c.N], 'real');
    const patches = patchify(x, patchSize);
    const tokens = denoiseTokens(g, dit, patches, t, caption.pooled, directView(g, dit, caption), ids);
    const maskToken = g.weights.use(dit.maskToken);
    const flat = reshape(maskToken, [maskToken.shape.at(-1)!]);
    trace.output(
      'out',
      tokensToImage(tokens, { channels, height: size, width: size, patchSize }, ids, ids ? flat : null),
    );
    const runner = this.runner(trace, {});
    runner.run();
    const read = (name: string) => Float64Array.from(runner.get(name));
    const routes = [...runner.plan.outputs.keys()].filter((name) => name !== 'out');
    const result = { out: read('out'), routes: new Map(routes.map((name) => [name, read(name)])) };
    runner.free();
    return result;
  }

  /** The same image by the plain model, one image after the other. */
  plain(): Float64Array {
    const { c, inputs } = this;
    const state = new Map(
      this.network.parameters.list.map((p) => [p.name, { values: this.read(p), shape: p.shape }]),
    );
    const model = new PlainDiT(c.config, state);
    const part = (name: string, n: number) => {
      const all = Array.from(inputs[name]!);
      return all.slice((n * all.length) / c.N, ((n + 1) * all.length) / c.N);
    };
    const images = Array.from({ length: c.N }, (_, n) => {
      const y = part('y', n);
      const width = c.config.caption_channels;
      const caption = Array.from({ length: c.S }, (_, s) => y.slice(s * width, (s + 1) * width));
      return model.forward(part('x', n), inputs.t![n]!, caption, c.K === null ? null : part('ids', n));
    });
    return Float64Array.from(images.flat());
  }

  /** A function that computes the mean loss with the weights as they are, and one that adds its gradients. */
  training(): { loss: () => number; gradient: (p: Parameter) => Float64Array; free: () => void } {
    const { backend, network, c } = this;
    const { in_channels: C, input_size: S } = c.config;
    const trace = new Trace();
    const images = (name: string) => trace.input(name, [c.N, C, S, S], 'real');
    const loss = traceLoss(contextFor(network, trace, { training: true }), network, SIGMA_DATA, {
      x0: images('x0'),
      noise: images('noise'),
      sigma: trace.input('sigma', [c.N], 'real'),
      ids: this.kept(trace),
      y: this.caption(trace),
    });
    finishMicroStep(trace, loss, c.N);
    const grad = allocFlat(backend, network.parameters, 'trainable');
    const state = backend.alloc(STATE_SIZE * backend.elemBytes.real);
    const runner = this.runner(trace, { grad, state });
    return {
      loss: () => {
        backend.fill(grad, 0);
        runner.run();
        return Float64Array.from(runner.get('loss')).reduce((a, b) => a + b, 0) / c.N;
      },
      gradient: (p) => Float64Array.from(readParameter(backend, grad, p)),
      free: () => {
        runner.free();
        grad.free();
        state.free();
      },
    };
  }

  /** D(x; sigma) guided by 3, with captions read before. */
  denoise(guidance: Guidance): Float64Array {
    const { backend, network, c } = this;
    const denoiser = new Denoiser({
      ...{ backend, network, weights: this.loaded, guidance, sigmaData: SIGMA_DATA },
      ...{ batch: c.N, captionLength: c.S },
    });
    const y = Array.from(this.inputs.y!);
    const both = guidance === 'negative' ? [...y, ...y.map(() => 0)] : y;
    denoiser.setCaptions(Float64Array.from(both));
    const D = Float64Array.from(denoiser.denoise(this.inputs.x!, 1.3, 3));
    denoiser.free();
    return D;
  }

  free(): void {
    this.weights.free();
  }
}
