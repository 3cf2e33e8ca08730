// Prompts as a network reads them: rows of its own word table, or embeddings by a text encoder beside it.
import type { Numbers } from '../backend/backend.ts';
import { Failure } from '../io/failure.ts';
import { ROWS_PER_WORD, tokenizeInto } from '../text/words.ts';
import type { Network } from './network.ts';

export interface EncodedCaptions {
  /** [N, S, D] */
  readonly states: Numbers;
  /** Per text: it had more than S tokens, and was cut. */
  readonly truncated: readonly boolean[];
}

/** A text encoder that a network was trained with and does not hold itself. */
export interface CaptionEncoder {
  /** S */
  readonly length: number;
  /** D, which is caption_channels of the network. */
  readonly channels: number;
  /** A text has the same bits whatever stands beside it. */
  encode(texts: readonly string[]): EncodedCaptions;
  free(): void;
}

/** The part of a model that reads prompts. */
export interface Reader {
  /** As the user called the model. */
  readonly name: string;
  readonly network: Network;
  /** Where captions come as embeddings: what makes them. */
  readonly captions?: CaptionEncoder;
}

/**
 * Texts as `Denoiser.setCaptions` takes them, and which were cut. A model that cannot read, or an encoder of
 * another width, is a Failure.
 */
export function readTexts(
  reader: Reader,
  texts: readonly string[],
): { readonly values: Numbers; readonly truncated: readonly boolean[] } {
  const { words, dit } = reader.network;
  if (words) {
    const row = words.length * ROWS_PER_WORD;
    const values = new Int32Array(texts.length * row);
    const truncated = texts.map((text, i) =>
      tokenizeInto(text, words.buckets, values.subarray(i * row, (i + 1) * row)),
    );
    return { values, truncated };
  }
  const encoder = reader.captions;
  if (!encoder) throw new Failure({ what: reader.name, why: 'has no text encoder' });
  const { caption_channels } = dit.config;
  if (encoder.channels !== caption_channels) {
    const why = `reads captions of ${caption_channels} channels, its text encoder writes ${encoder.channels}`;
    throw new Failure({ what: reader.name, why, fix: 'Use the text encoder that it was trained with' });
  }
  const { states, truncated } = encoder.encode(texts);
  return { values: states, truncated };
}
