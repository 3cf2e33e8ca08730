// A CLIP text tower with its weights on a backend: texts to states [S, D], N texts at a time.
import type { Backend, Numbers, Region } from '../backend/backend.ts';
import { Failure } from '../io/failure.ts';
import type { TensorFile } from '../io/tensor-file.ts';
import { Parameters, Weights } from '../plan/params.ts';
import { freeze } from '../plan/plan.ts';
import { Runner } from '../plan/runner.ts';
import type { Tensor } from '../plan/tensor.ts';
import { Trace, traceOf } from '../plan/trace.ts';
import { CLIP_VOCABULARY, type ClipTokenizer } from '../text/bpe.ts';
import { type ClipText, declareClipText, encodeClip, idPairs, poolClip } from '../text/clip.ts';
import type { ClipTextConfig } from '../text/clip-config.ts';
import { clipTokenizer } from '../text/vocabulary.ts';
import type { CaptionEncoder, EncodedCaptions } from './captions.ts';
import { allocWeights, freeWeights, type LoadedWeights, readWeights, regionsOf } from './weights.ts';

/** What stands before the names in checkpoints of open_clip's CustomTextCLIP models. */
const PREFIXES = ['', 'text.'];

/** Stands before the names of outputs that show the residual stream. */
const TAP = 'act.';

export interface ClipOptions {
  /** Texts in one run, N; fewer are filled up, so that a text has the same bits wherever it stands. */
  readonly batch?: number;
  /** Also loads text_projection, for `pooled`. */
  readonly pooled?: boolean;
}

/** A text tower whose weights other plans read: in spaces of its own, beside those of the network. */
export interface CaptionTower {
  readonly tower: ClipText;
  readonly parameters: Parameters;
  readonly regions: Readonly<Record<string, Region>>;
}

const SPACES = { weight: 'clip', master: 'clip_master' };

/**
 * Token ids as pairs (`idPairs`) [N, S, 2] -> states [N, S, D], within a plan that binds the tower's
 * regions.
 */
export function traceCaptions({ tower, parameters }: CaptionTower, ids: Tensor): Tensor {
  const weights = new Weights(traceOf(ids), parameters, false, SPACES);
  return encodeClip({ weights, exactRows: false }, tower, ids);
}

export class ClipEncoder implements CaptionEncoder {
  private readonly runners = new Map<number, Runner>();

  private constructor(
    readonly backend: Backend,
    readonly tower: ClipText,
    private readonly parameters: Parameters,
    private readonly weights: LoadedWeights,
    private readonly batch: number,
  ) {}

  /**
   * Names and shapes are checked before any memory is taken; tensors that the tower does not need (the image
   * tower of a whole CLIP) are left alone.
   */
  static load(
    backend: Backend,
    config: ClipTextConfig,
    file: TensorFile,
    { batch = 1, pooled = false }: ClipOptions = {},
  ): ClipEncoder {
    const parameters = new Parameters();
    const tower = declareClipText(parameters, config, pooled);
    const first = parameters.list[0]!.name;
    const prefix = PREFIXES.find((p) => file.tensors.has(p + first)) ?? '';
    for (const { name, shape } of parameters.list) {
      const found = file.tensors.get(prefix + name)?.shape;
      if (found && found.join() === shape.join()) continue;
      const why = found ? `has shape [${found.join(', ')}], not [${shape.join(', ')}]` : 'is missing';
      const fix = 'Use the weights that the config belongs to';
      throw new Failure({ what: file.path, why: `tensor ${prefix}${name} ${why}`, fix });
    }
    const weights = allocWeights(backend, parameters);
    try {
      readWeights(backend, weights, parameters, file, prefix);
    } catch (error) {
      freeWeights(weights);
      throw error;
    }
    return new ClipEncoder(backend, tower, parameters, weights, batch);
  }

  /** The tower as a part of other plans, such as those of training. */
  get caption(): CaptionTower {
    const { tower, parameters } = this;
    const { weight, master } = this.weights;
    return { tower, parameters, regions: { [SPACES.weight]: weight, [SPACES.master]: master } };
  }

  /** With weights of zeros, to see what memory it takes. */
  static zeroed(backend: Backend, config: ClipTextConfig, batch = 1): ClipEncoder {
    const parameters = new Parameters();
    const tower = declareClipText(parameters, config, false);
    return new ClipEncoder(backend, tower, parameters, allocWeights(backend, parameters), batch);
  }

  /** Tokens of a text, S. */
  get length(): number {
    return this.tower.config.context;
  }

  /** Width of a state, D. */
  get channels(): number {
    return this.tower.config.width;
  }

  /** States of texts; equal texts are computed once. */
  encode(texts: readonly string[]): EncodedCaptions {
    const tokenizer = this.tokenizer();
    const S = this.length;
    const different = [...new Set(texts)];
    const tokens = new Int32Array(different.length * S);
    const cut = different.map(
      (text, i) => tokenizer.encodeInto(text, tokens.subarray(i * S, (i + 1) * S)) > S,
    );
    const states = this.states(tokens);
    const size = S * this.channels;
    const all = new Float32Array(texts.length * size);
    for (const [n, text] of texts.entries()) {
      const i = different.indexOf(text);
      all.set(states.subarray(i * size, (i + 1) * size), n * size);
    }
    return { states: all, truncated: texts.map((text) => cut[different.indexOf(text)]!) };
  }

  /** Token ids [N, S] -> states [N, S, D], as many at a time as the batch has. */
  states(tokens: Int32Array): Float32Array {
    const { batch, length: S, channels } = this;
    const N = tokens.length / S;
    const all = new Float32Array(N * S * channels);
    for (let at = 0; at < N; at += batch) {
      const part = new Int32Array(batch * S);
      part.set(tokens.subarray(at * S, (at + batch) * S));
      const runner = this.run(part, batch);
      all.set(
        runner.get('states').subarray(0, (Math.min(N, at + batch) - at) * S * channels),
        at * S * channels,
      );
    }
    return all;
  }

  /**
   * Token ids [N, S] -> [N, embed]: the state of the end token (the largest id), projected, not normalised.
   */
  pooled(tokens: Int32Array): Numbers {
    const { length: S } = this;
    const N = tokens.length / S;
    const ends = Array.from({ length: N }, (_, n) => {
      const row = tokens.subarray(n * S, (n + 1) * S);
      return row.indexOf(row.reduce((a, b) => Math.max(a, b)));
    });
    return this.run(tokens, N, ends).get('pooled');
  }

  /**
   * The residual stream of texts [N, S, D] after the embedding (`embed`) and each block (`resblock.0` ..).
   */
  residualStream(tokens: Int32Array): ReadonlyMap<string, Numbers> {
    const N = tokens.length / this.length;
    const runner = this.plan(N, true);
    try {
      runner.set('tokens', idPairs(this.checked(tokens)));
      if (runner.plan.inputs.has('ends')) runner.set('ends', new Int32Array(N));
      runner.run();
      const names = [...runner.plan.outputs.keys()].filter((name) => name.startsWith(TAP));
      return new Map(names.map((name) => [name.slice(TAP.length), runner.get(name)]));
    } finally {
      runner.free();
    }
  }

  free(): void {
    for (const runner of this.runners.values()) runner.free();
    this.runners.clear();
    freeWeights(this.weights);
  }

  /** A plan of N texts; `taps`: the residual stream is kept as outputs. */
  private plan(N: number, taps = false): Runner {
    const { backend, tower, parameters } = this;
    const trace = new Trace();
    const tap = (name: string, x: Tensor) => trace.output(TAP + name, x);
    const g = {
      weights: new Weights(trace, parameters, false),
      exactRows: true,
      ...(taps ? { tap } : {}),
    };
    const states = encodeClip(g, tower, trace.input('tokens', [N, this.length, 2], 'i32'));
    trace.output('states', states);
    if (tower.projection !== null) {
      trace.output('pooled', poolClip(g, tower.projection, states, trace.input('ends', [N, 1], 'i32')));
    }
    const plan = freeze('clip', trace, { elemBytes: backend.elemBytes });
    return new Runner(backend, plan, regionsOf(this.weights));
  }

  private run(tokens: Int32Array, N: number, ends?: readonly number[]): Runner {
    const runner = this.runners.get(N) ?? this.plan(N);
    this.runners.set(N, runner);
    runner.set('tokens', idPairs(this.checked(tokens)));
    if (runner.plan.inputs.has('ends')) runner.set('ends', ends ?? new Int32Array(N));
    runner.run();
    return runner;
  }

  /** An id outside of the table would read foreign memory. */
  private checked(tokens: Int32Array): Int32Array {
    const { vocab } = this.tower.config;
    const wrong = tokens.find((id) => id < 0 || id >= vocab);
    if (wrong === undefined) return tokens;
    throw new Failure({ what: `token ${wrong}`, why: `is not in a vocabulary of ${vocab}` });
  }

  private tokenizer(): ClipTokenizer {
    const { vocab } = this.tower.config;
    if (vocab === CLIP_VOCABULARY) return clipTokenizer();
    throw new Failure({
      what: 'text encoder',
      why: `has a vocabulary of ${vocab}, the tokenizer one of ${CLIP_VOCABULARY}`,
      fix: 'Use the weights of a published CLIP',
    });
  }
}
