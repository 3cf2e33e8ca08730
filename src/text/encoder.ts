// The small text encoder that needs no weights of its own: a trained embedding of hashed words plus
// positions.
import { lookupWords } from '../plan/ops/words.ts';
import type { Handle, Parameters, Weights } from '../plan/params.ts';
import type { Tensor } from '../plan/tensor.ts';

export interface WordEncoder {
  readonly table: Handle;
  readonly positions: Handle;
  /** Caption length S. */
  readonly length: number;
  /** Rows of the table. */
  readonly buckets: number;
}

/** Adds the table [buckets, channels] and fixed sin-cos positions [length, channels] to the parameters. */
export function declareWordEncoder(
  p: Parameters,
  c: { buckets: number; channels: number; length: number },
): WordEncoder {
  const positions = () => sinCosLine(c.length, c.channels);
  return {
    // A word is the sum of two rows, so words begin with unit variance.
    table: p.add(
      'text_embedder.weight',
      [c.buckets, c.channels],
      { kind: 'normal', std: Math.SQRT1_2 },
      { kind: 'embedding' },
    ),
    positions: p.add(
      'text_embedder.positions',
      [c.length, c.channels],
      { kind: 'values', values: positions },
      { frozen: true, decay: false },
    ),
    length: c.length,
    buckets: c.buckets,
  };
}

/** ids [N, S, 2] (rows of the table, -1 for padding) -> [N, S, channels]; padding is a row of zeros. */
export function encodeWords(weights: Weights, encoder: WordEncoder, ids: Tensor): Tensor {
  return lookupWords(weights.use(encoder.table), ids, weights.use(encoder.positions));
}

/** Sines, then cosines, of the position at frequencies 10000^(-2 i / channels). */
function sinCosLine(length: number, channels: number): Float64Array {
  const half = Math.ceil(channels / 2);
  return Float64Array.from({ length: length * channels }, (_, i) => {
    const [s, c] = [Math.floor(i / channels), i % channels];
    const angle = s / 10000 ** ((c % half) / half);
    return c < half ? Math.sin(angle) : Math.cos(angle);
  });
}
