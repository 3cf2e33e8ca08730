// The Workers that decode pictures. Items are handed out in turn and answered in any order; who asked waits
// for each answer in its own order, so the number of Workers changes nothing.
import { Failure } from '../io/failure.ts';
import type { Answer, Order } from './decode-worker.ts';
import type { Item, ItemSettings, Result } from './item.ts';
import { prepareItem } from './picture.ts';

/** Makes results of items. `free` ends what it started. */
export interface Decoders {
  /** Items that are worth having under way at a time. */
  readonly atOnce: number;
  decode(item: Item): Promise<Result>;
  free(): void;
}

/** `workers` 1: in this thread. */
export function decodersOf(workers: number, settings: ItemSettings): Decoders {
  if (workers <= 1) return { atOnce: 8, decode: (item) => prepareItem(item, settings), free() {} };
  const hands = Array.from({ length: workers }, () => new Hand(settings));
  let turn = 0;
  return {
    atOnce: 8 * workers,
    decode: (item) => hands[turn++ % workers]!.decode(item),
    free() {
      for (const hand of hands) hand.end();
    },
  };
}

class Hand {
  private readonly worker = new Worker(workerAddress());
  private readonly waiting = new Map<number, PromiseWithResolvers<Result>>();
  private last = 0;
  private broken: Failure | null = null;

  constructor(private readonly settings: ItemSettings) {
    this.worker.onmessage = ({ data }: MessageEvent<Answer>) => {
      const { resolve, reject } = this.waiting.get(data.id)!;
      this.waiting.delete(data.id);
      const { result, failure } = data;
      if (result) resolve(result);
      else
        reject(
          new Failure({ what: 'decoding', why: failure?.message ?? 'no answer', code: codeOf(failure) }),
        );
    };
    this.worker.onerror = ({ message }) => {
      this.broken = new Failure({ what: 'decoding', why: message, fix: 'Try --workers 1' });
      for (const { reject } of this.waiting.values()) reject(this.broken);
      this.waiting.clear();
    };
  }

  decode(item: Item): Promise<Result> {
    if (this.broken) return Promise.reject(this.broken);
    const answer = Promise.withResolvers<Result>();
    const id = ++this.last;
    this.waiting.set(id, answer);
    this.worker.postMessage({ id, item, settings: this.settings } satisfies Order);
    return answer.promise;
  }

  end(): void {
    this.worker.terminate();
  }
}

const codeOf = (failure: Answer['failure']) =>
  failure?.code === 2 || failure?.code === 3 ? failure.code : 1;

/** The Worker's program: beside this file, or an entry point of the executable. */
function workerAddress(): string {
  const inside = import.meta.dir.startsWith('/$bunfs/');
  return inside
    ? '/$bunfs/root/prepare/decode-worker.js'
    : new URL('./decode-worker.ts', import.meta.url).href;
}
