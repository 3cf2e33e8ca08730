// A Bun Worker that reads pictures out of shards and decodes them. It is an entry point of its own in the
// executable (Makefile).
import { Failure } from '../../io/failure.ts';
import type { MdsShardInfo } from '../../io/mds/index.ts';
import { MdsShard } from '../../io/mds/shard.ts';
import { Source } from '../../io/source.ts';
import { ROWS_PER_WORD } from '../../text/words.ts';
import { type CaptionShape, rowsOfText, writeRows } from '../caption-rows.ts';
import { type PictureColumns, readPicture } from '../shard-picture.ts';

/** Samples of one shard: `rows[i]` is the place of sample `samples[i]` in the answer. */
export interface ShardPart {
  readonly path: string;
  readonly info: MdsShardInfo;
  readonly columns: PictureColumns;
  readonly samples: number[];
  readonly rows: number[];
}

export interface Order {
  readonly id: number;
  readonly size: number;
  readonly captions: CaptionShape;
  readonly count: number;
  readonly parts: readonly ShardPart[];
}

export interface Answer {
  readonly id: number;
  /** Planes [count, 3, size, size]. */
  readonly pixels: Uint8Array;
  /** Word rows [count, S, 2]. */
  readonly words: Int32Array;
  readonly failure: { readonly message: string; readonly code: number } | null;
}

declare const self: Worker;

/** Shards that stay open, in the order of their last use. */
const opened = new Map<string, MdsShard>();
const KEPT = 64;

self.onmessage = async ({ data }: MessageEvent<Order>) => {
  const { id, size, captions, count, parts } = data;
  const area = 3 * size * size;
  const pixels = new Uint8Array(count * area);
  const words = new Int32Array(count * captions.length * ROWS_PER_WORD);
  let failure: Answer['failure'] = null;
  try {
    for (const { path, info, columns, samples, rows } of parts) {
      for (const [i, sample] of samples.entries()) {
        const { planes, caption } = await readPicture(open(path, info), sample, columns, size);
        pixels.set(planes, rows[i]! * area);
        const offset = rows[i]! * captions.length * ROWS_PER_WORD;
        writeRows(rowsOfText(caption, captions), captions.length, words, offset);
      }
    }
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    failure = { message, code: error instanceof Failure ? error.code : 1 };
  }
  postMessage({ id, pixels, words, failure } satisfies Answer, [pixels.buffer, words.buffer]);
};

function open(path: string, info: MdsShardInfo): MdsShard {
  const known = opened.get(path);
  opened.delete(path);
  const shard = known ?? MdsShard.open(Source.open(path), info);
  opened.set(path, shard);
  for (const [old, other] of opened) {
    if (opened.size <= KEPT) break;
    opened.delete(old);
    other.close();
  }
  return shard;
}
