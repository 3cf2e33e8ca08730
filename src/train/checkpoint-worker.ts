// A Bun Worker that writes checkpoints, so that training need not wait for the disk. It is an entry point of
// its own in the executable (Makefile).
import { Failure } from '../io/failure.ts';
import { type CheckpointFiles, writeCheckpoint } from './checkpoint-files.ts';

/** What went wrong, in the words for a user; null where all is written. */
export interface Report {
  readonly failure: { readonly message: string; readonly code: number | null } | null;
}

declare const self: Worker;

self.onmessage = ({ data }: MessageEvent<CheckpointFiles>) => {
  const report = (failure: Report['failure']) => postMessage({ failure } satisfies Report);
  try {
    writeCheckpoint(data);
    report(null);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    report({ message, code: error instanceof Failure ? error.code : null });
  }
};
