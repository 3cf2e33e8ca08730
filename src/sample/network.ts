// The network of a recipe as one thing: MicroDiT and its text encoder over one set of parameters.
import { declareDiT, type DiT } from '../model/dit.ts';
import type { Context } from '../model/layers.ts';
import { Parameters, Weights } from '../plan/params.ts';
import type { Tensor } from '../plan/tensor.ts';
import type { Trace } from '../plan/trace.ts';
import type { ModelConfig, Recipe, TextConfig } from '../recipe/schema.ts';
import { declareWordEncoder, encodeWords, type WordEncoder } from '../text/encoder.ts';

export interface Network {
  readonly parameters: Parameters;
  readonly dit: DiT;
  /** null: captions come as embeddings [N, S, caption_channels]. */
  readonly words: WordEncoder | null;
}

/** The network of a recipe: with the trained embedding of words where its captions go through one. */
export function networkOf({ model, text }: Pick<Recipe, 'model' | 'text'>): Network {
  return declareNetwork(model, text.encoder === 'words' ? text : null);
}

/** Declares all parameters; `text` null leaves the encoder out (captions are given as embeddings). */
export function declareNetwork(model: ModelConfig, text: TextConfig | null): Network {
  const parameters = new Parameters();
  const dit = declareDiT(parameters, model);
  const words =
    text &&
    declareWordEncoder(parameters, {
      buckets: text.vocab_buckets,
      channels: text.channels,
      length: text.length,
    });
  return { parameters, dit, words };
}

/** A context to trace forward passes in. */
export function contextFor(
  network: Network,
  trace: Trace,
  mode: { training?: boolean; exactRows?: boolean } & Pick<Context, 'tap' | 'forced'>,
): Context {
  return {
    weights: new Weights(trace, network.parameters, mode.training ?? false),
    eps: network.dit.config.norm_eps,
    exactRows: mode.exactRows ?? false,
    tap: mode.tap,
    forced: mode.forced,
  };
}

/** A caption input of a plan, as the network takes it: word rows, or embeddings where there is no encoder. */
export function captionInput(g: Context, network: Network, trace: Trace, N: number, S?: number): Tensor {
  const { words, dit } = network;
  if (words) return encodeWords(g.weights, words, trace.input('words', [N, words.length, 2], 'i32'));
  return trace.input('captions', [N, S ?? 1, dit.config.caption_channels], 'act');
}
