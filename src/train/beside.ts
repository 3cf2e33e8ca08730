// Checkpoints written beside training: a copy of the state in memory that threads share, and the Worker that
// writes it. The copy's memory is kept from one checkpoint to the next, since taking it anew costs more than
// copying.
import { availableBytes } from '../io/available.ts';
import { Failure } from '../io/failure.ts';
import type { TensorToWrite } from '../io/safetensors_write.ts';
import type { CheckpointFiles } from './checkpoint-files.ts';
import type { Report } from './checkpoint-worker.ts';

/**
 * What the copy may take of the memory that is free; the rest is for previews, and pages on their way out.
 */
const SHARE = 0.8;

/** A tensor whose float32 values are still in the backend's memory. */
export interface Held {
  readonly name: string;
  readonly shape: readonly number[];
  readonly count: number;
  read(into: Float32Array): void;
}

export class Beside {
  /** By file and name of the tensor. */
  private readonly copies = new Map<string, Float32Array>();
  private worker: Worker | null = null;
  private said = false;

  /** `warn` is told once where there is no memory for the copy. `available`: bytes that are free now. */
  constructor(
    private readonly warn: (text: string) => void,
    private readonly available: () => number = () => availableBytes(),
  ) {}

  /**
   * Copies the values of all tensors, in their order; null where there is no memory for that. The copy is
   * good until the next call.
   */
  copy(content: CheckpointFiles<Held>): CheckpointFiles | null {
    if (!this.hasRoom(content)) return null;
    const files = content.files.map(({ tensors, ...file }) => ({
      ...file,
      tensors: tensors.map(({ name, shape, read }): TensorToWrite => {
        const data = this.copies.get(`${file.name}/${name}`)!;
        read(data);
        return { name, dtype: 'F32', shape, data };
      }),
    }));
    return { ...content, files };
  }

  /** Writes what `copy` gave. Rejects with a Failure where that cannot be written; one at a time. */
  write(files: CheckpointFiles): Promise<void> {
    this.worker ??= new Worker(workerAddress());
    const { worker } = this;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    worker.onmessage = ({ data: { failure } }: MessageEvent<Report>) => {
      if (failure) reject(failureOf(failure, files));
      else resolve();
    };
    worker.onerror = ({ message }) => {
      this.worker = null;
      reject(new Failure({ what: `checkpoint ${files.name}`, why: message }));
    };
    worker.postMessage(files);
    return promise;
  }

  /** Gives the memory back. Nothing may be on its way to the disk. */
  free(): void {
    this.worker?.terminate();
    this.worker = null;
    this.copies.clear();
  }

  /** Takes the memory that is missing. */
  private hasRoom({ files }: CheckpointFiles<Held>): boolean {
    const missing = files.flatMap(({ name: file, tensors }) =>
      tensors
        .map(({ name, count }) => ({ key: `${file}/${name}`, count }))
        .filter(({ key, count }) => this.copies.get(key)?.length !== count),
    );
    const bytes = missing.reduce((sum, { count }) => sum + 4 * count, 0);
    const free = bytes > 0 ? SHARE * this.available() : 0;
    if (bytes > free) return this.refuse(bytes, free);
    try {
      for (const { key, count } of missing) {
        this.copies.set(key, new Float32Array(new SharedArrayBuffer(4 * count)));
      }
      return true;
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      this.copies.clear(); // a limit of this process, which no file of the system tells
      return this.refuse(bytes, free);
    }
  }

  private refuse(bytes: number, free: number): false {
    const gigabytes = (n: number) => (n / 1e9).toPrecision(3);
    const need = `a copy of the state needs ${gigabytes(bytes)} GB of memory, and ${gigabytes(free)} GB`;
    if (!this.said) this.warn(`training waits for its checkpoints: ${need} may be taken`);
    this.said = true;
    return false;
  }
}

/** The Worker's program: beside this file, or an entry point of the executable. */
function workerAddress(): string {
  const inside = import.meta.dir.startsWith('/$bunfs/');
  return inside
    ? '/$bunfs/root/train/checkpoint-worker.js'
    : new URL('./checkpoint-worker.ts', import.meta.url).href;
}

/** What the Worker was stopped by; anything but a Failure is a fault of the program, and stays one. */
function failureOf({ message, code }: NonNullable<Report['failure']>, { name }: CheckpointFiles): Error {
  const [what, ...why] = message.split(': ');
  if (code === null) return new Error(`checkpoint ${name}: ${message}`);
  if (why.length === 0) return new Failure({ what: `checkpoint ${name}`, why: message });
  return new Failure({ what: what!, why: why.join(': ') });
}
