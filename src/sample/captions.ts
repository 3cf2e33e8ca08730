// What turns prompts into the embeddings of a network that has no word table of its own.
import type { Numbers } from '../backend/backend.ts';

export interface EncodedCaptions {
  /** [N, S, D] */
  readonly states: Numbers;
  /** Per text: it had more than S tokens, and was cut. */
  readonly truncated: readonly boolean[];
}

export interface CaptionEncoder {
  /** S */
  readonly length: number;
  /** D, which is caption_channels of the network. */
  readonly channels: number;
  /** A text has the same bits whatever stands beside it. */
  encode(texts: readonly string[]): EncodedCaptions;
  free(): void;
}
