// The Workers that bring shards, and the queue in front of them.
import { Failure } from '../../io/failure.ts';
import type { BringJob } from './bring.ts';
import type { Order, Report } from './bring-worker.ts';

/** Workers, and jobs that each does at once: while one unpacks, others download. */
const WORKERS = 2;
const EACH = 4;

interface Waiting {
  readonly job: BringJob;
  readonly resolve: () => void;
  readonly reject: (error: Failure) => void;
}

interface Hand {
  /** Whether it ends with its last job. */
  ending: boolean;
  readonly worker: Worker;
  readonly jobs: Map<number, Waiting>;
}

export class Bringers {
  private readonly hands: Hand[] = [];
  private readonly queue: Waiting[] = [];
  private last = 0;

  /** Resolves when the shard is at its target. */
  bring(job: BringJob): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.queue.push({ job, resolve, reject });
    this.deal();
    return promise;
  }

  /**
   * Jobs that are not done fail; a Worker ends when it has none under way, so that no file is left
   * half-written.
   */
  close(): void {
    for (const hand of this.hands) {
      for (const { job, reject } of hand.jobs.values()) reject(ended(job, 'the stream was closed'));
      hand.worker.unref();
      if (hand.jobs.size === 0) hand.worker.terminate();
      else hand.ending = true;
    }
    this.hands.length = 0;
    for (const { job, reject } of this.queue.splice(0)) reject(ended(job, 'the stream was closed'));
  }

  private deal(): void {
    while (this.queue.length > 0) {
      let hand = this.hands.find(({ jobs }) => jobs.size === 0);
      if (!hand && this.hands.length < WORKERS) hand = this.hire();
      hand ??= this.hands.find(({ jobs }) => jobs.size < EACH);
      if (!hand) return;
      const waiting = this.queue.shift()!;
      const id = ++this.last;
      hand.jobs.set(id, waiting);
      hand.worker.ref(); // the program waits for jobs, not for idle Workers
      hand.worker.postMessage({ id, job: waiting.job } satisfies Order);
    }
  }

  private hire(): Hand {
    const worker = new Worker(workerAddress());
    worker.unref();
    const hand: Hand = { worker, jobs: new Map(), ending: false };
    worker.onmessage = ({ data }: MessageEvent<Report>) => {
      const { job, resolve, reject } = hand.jobs.get(data.id)!;
      hand.jobs.delete(data.id);
      if (hand.jobs.size === 0) worker.unref();
      if (hand.jobs.size === 0 && hand.ending) worker.terminate();
      if (data.failure) reject(failureOf(data.failure, job));
      else resolve();
      this.deal();
    };
    worker.onerror = ({ message }) => {
      this.hands.splice(this.hands.indexOf(hand), 1);
      for (const { job, reject } of hand.jobs.values()) reject(ended(job, message));
      hand.jobs.clear();
      this.deal();
    };
    this.hands.push(hand);
    return hand;
  }
}

/** The Worker's program: beside this file, or the second entry point of the executable. */
function workerAddress(): string {
  const inside = import.meta.dir.startsWith('/$bunfs/');
  return inside
    ? '/$bunfs/root/data/stream/bring-worker.js'
    : new URL('./bring-worker.ts', import.meta.url).href;
}

function failureOf({ message, code }: NonNullable<Report['failure']>, job: BringJob): Failure {
  const [what, ...why] = message.split(': ');
  if (why.length === 0) return ended(job, message);
  return new Failure({ what: what!, why: why.join(': '), code: code === 2 || code === 3 ? code : 1 });
}

function ended({ base, info }: BringJob, why: string): Failure {
  return new Failure({ what: `${base}, shard ${info.index}`, why });
}
