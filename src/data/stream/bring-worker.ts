// A Bun Worker that brings shards: unpacking and hashing would hold up the thread that trains. It is an entry
// point of its own in the executable (Makefile).
import { Failure } from '../../io/failure.ts';
import { type BringJob, bring } from './bring.ts';

export interface Order {
  readonly id: number;
  readonly job: BringJob;
}

export interface Report {
  readonly id: number;
  /** What a user is told; null when the shard is there. */
  readonly failure: { readonly message: string; readonly code: number } | null;
}

declare const self: Worker;

self.onmessage = async ({ data }: MessageEvent<Order>) => {
  const report = (failure: Report['failure']) => postMessage({ id: data.id, failure } satisfies Report);
  try {
    await bring(data.job);
    report(null);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    report({ message, code: error instanceof Failure ? error.code : 1 });
  }
};
