// Batches out of shards, as inputs of the micro-step: latents and captions as the halves that lie in the
// files, or pictures and the words of their captions.
import type { SourceShape } from '../data/source.ts';
import { PictureStream } from '../data/stream/picture-stream.ts';
import type { ColumnSpec } from '../data/stream/columns.ts';
import type { StreamSet } from '../data/stream/sets.ts';
import { ShardStream } from '../data/stream/stream.ts';
import type { Rank } from '../backend/backend.ts';
import type { Recipe } from '../recipe/schema.ts';
import { idPairs } from '../text/clip.ts';
import { ROWS_PER_WORD } from '../text/words.ts';
import type { Batch, BatchSource } from './trainer.ts';

/** Pixels of a picture to one number of its latent, in the names of columns: latents_256 are 32 x 32. */
const FACTOR = 8;

/** What a model reads of a sample. */
interface Columns {
  readonly latents: ColumnSpec;
  /** States of a text tower as halves [S, D], or token ids [S] in 16 bits each. */
  readonly captions: ColumnSpec;
}

function columnsOf({ model, text }: Recipe): Columns {
  const { input_size: side, in_channels: C } = model;
  return {
    latents: { column: `latents_${FACTOR * side}`, bytes: 2 * C * side * side },
    captions:
      text.encoder === 'clip'
        ? { column: 'caption_tokens', bytes: 2 * text.length }
        : { column: 'caption_latents', bytes: 2 * text.length * text.channels },
  };
}

/** A batch whose inputs are views of what the stream fills. */
interface ShardBatch extends Batch {
  readonly columns: readonly Uint8Array[];
}

export class ShardBatches implements BatchSource<ShardBatch> {
  private constructor(
    readonly stream: ShardStream,
    private readonly columns: Columns,
    private readonly tokens: boolean,
    private readonly origin: number,
  ) {}

  /** `origin`: the place at which the first epoch of the sets begins. */
  static async open(
    recipe: Recipe,
    sets: readonly StreamSet[],
    origin: number,
    rank: Rank,
  ): Promise<ShardBatches> {
    const columns = columnsOf(recipe);
    const { seed, window, workers } = recipe.data;
    const options = { seed, window, ...rank, ...(workers > 0 ? { workers } : {}) };
    const stream = await ShardStream.open(sets, [columns.latents, columns.captions], options);
    return new ShardBatches(stream, columns, recipe.text.encoder === 'clip', origin);
  }

  allocate(count: number): ShardBatch {
    const { latents, captions } = this.columns;
    const columns = [latents, captions].map(({ bytes }) => new Uint8Array(count * bytes));
    const [pictures, texts] = columns.map(({ buffer }) => new Int32Array(buffer));
    const ids = new Int32Array(count * captions.bytes); // pairs of words for 16 bits each
    return {
      columns,
      inputs: { latents: pictures!, ...(this.tokens ? { tokens: ids } : { captions: texts! }) },
      places: new Float64Array(count),
    };
  }

  async fill(batch: ShardBatch, first: number): Promise<void> {
    await this.stream.fill(batch.columns, batch.places, first - this.origin);
    for (const n of batch.places.keys()) batch.places[n]! += this.origin;
    const { tokens } = batch.inputs;
    if (tokens) tokens.set(idPairs(new Uint16Array(batch.columns[1]!.buffer)));
  }

  captionAt(place: number): Promise<string> {
    return this.stream.captionAt(place - this.origin);
  }

  close(): Promise<void> {
    return this.stream.close();
  }
}

interface PictureBatch extends Batch {
  readonly inputs: { readonly x0: Float32Array; readonly words: Int32Array };
}

/** What pictures of a recipe are read as. */
export function pictureShape({ image, text }: Recipe): SourceShape {
  return { size: image.size, length: text.length, rows: text.vocab_buckets };
}

export class PictureBatches implements BatchSource<PictureBatch> {
  private constructor(
    readonly stream: PictureStream,
    private readonly shape: SourceShape,
    private readonly origin: number,
  ) {}

  /** `origin`: the place at which the first epoch of the sets begins. */
  static async open(
    recipe: Recipe,
    sets: readonly StreamSet[],
    origin: number,
    rank: Rank,
  ): Promise<PictureBatches> {
    const shape = pictureShape(recipe);
    const { seed, window, workers } = recipe.data;
    const options = { seed, window, ...rank, ...(workers > 0 ? { workers } : {}) };
    return new PictureBatches(await PictureStream.open(sets, shape, options), shape, origin);
  }

  allocate(count: number): PictureBatch {
    const { size, length } = this.shape;
    return {
      inputs: {
        x0: new Float32Array(count * 3 * size * size),
        words: new Int32Array(count * length * ROWS_PER_WORD),
      },
      places: new Float64Array(count),
    };
  }

  async fill({ inputs, places }: PictureBatch, first: number): Promise<void> {
    await this.stream.fill(inputs, places, first - this.origin);
    for (const n of places.keys()) places[n]! += this.origin;
  }

  captionAt(place: number): Promise<string> {
    return this.stream.captionAt(place - this.origin);
  }

  close(): Promise<void> {
    return this.stream.close();
  }
}
