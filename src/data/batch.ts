// Fills a training batch: pictures, word rows and places, into buffers made once.
import { Failure } from '../io/failure.ts';
import { ROWS_PER_WORD } from '../text/words.ts';
import { type Draw, Mix } from './mix.ts';
import type { Source, SourceShape } from './source.ts';

export interface Batch {
  readonly inputs: {
    /** [N, 3, size, size] in [-1, 1]. */
    readonly x0: Float32Array;
    /** [N, S, 2]; -1 is padding. */
    readonly words: Int32Array;
  };
  /** [N]: which image of the run each one is; noise, sigma and masks are drawn from it. */
  readonly places: Float64Array;
}

export class Batches {
  private readonly mix: Mix;
  private readonly draw: Draw = { source: 0, item: 0, captionIndex: 0 };

  /**
   * weights: one a source. seed: 0..2^53-1, of the order and of the wording. `origin`: the place at which the
   * first epoch of the sources begins. `rank`: which of several processes takes its images from here.
   */
  constructor(
    private readonly sources: readonly Source[],
    weights: readonly number[],
    private readonly shape: SourceShape,
    seed: number,
    private readonly origin = 0,
    private readonly rank = { rank: 0, ranks: 1 },
  ) {
    this.mix = new Mix(
      sources.map((source, i) => ({ count: source.count, weight: weights[i]! })),
      seed,
    );
  }

  /** Buffers for N images; give your own (views of native memory) to have them filled in place. */
  allocate(count: number): Batch {
    const { size, length } = this.shape;
    return {
      inputs: {
        x0: new Float32Array(count * 3 * size * size),
        words: new Int32Array(count * length * ROWS_PER_WORD),
      },
      places: new Float64Array(count),
    };
  }

  /** Fills `batch` with places first + rank, first + rank + ranks, ... Splitting a batch changes nothing. */
  fill(batch: Batch, first: number): void {
    const { size, length } = this.shape;
    const pixels = 3 * size * size;
    const rows = length * ROWS_PER_WORD;
    const { inputs, places } = batch;
    const { x0, words } = inputs;
    const count = places.length;
    if (x0.length !== count * pixels || words.length !== count * rows) {
      const why = `${x0.length} values and ${words.length} word rows do not fit ${count} images`;
      throw new Failure({ what: 'batch', why });
    }
    for (let n = 0; n < count; n++) {
      const place = first + this.rank.rank + n * this.rank.ranks;
      const { source, item, captionIndex } = this.mix.at(place - this.origin, this.draw);
      places[n] = place;
      this.sources[source]!.picture(item, x0, n * pixels);
      this.sources[source]!.tokens(item, captionIndex, words, n * rows);
    }
  }

  /** The caption of the image at `place`, as it is tokenized there. */
  captionAt(place: number): string {
    const { source, item, captionIndex } = this.mix.at(place - this.origin, this.draw);
    return this.sources[source]!.caption(item, captionIndex);
  }
}
