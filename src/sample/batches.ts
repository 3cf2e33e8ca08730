// From a stream of prompts to batches of pictures: settings filled in, seeds and names given out, order kept.

import type { Interval } from '../diffusion/heun.ts';
import type { SamplerName } from '../diffusion/solvers.ts';
import { type BadPrompt, isBad, type Prompt } from './prompts.ts';
import { fitTogether, type PictureRequest } from './sampler.ts';
import type { Extent } from './size.ts';
import type { RngName } from './torch-noise.ts';

/** One picture to be made, with everything that decides how it looks. */
export interface Job extends PictureRequest {
  /** Place in the output, from 0. */
  readonly index: number;
  readonly sampler: SamplerName;
  readonly guidance_interval: Interval | null;
  /** Name that the line gives its PNG; null when it gives none. */
  readonly out: string | null;
}

/** What the command line says for pictures whose line says nothing else. */
export interface JobDefaults {
  readonly negative_prompt: string;
  readonly seed: number;
  readonly steps: number;
  readonly cfg_scale: number;
  readonly sampler: SamplerName;
  /** null: guidance acts at all noise levels. */
  readonly guidance_interval: Interval | null;
  /** As the model was trained when left out. */
  readonly size?: Extent | null;
  /** Ours when left out. */
  readonly rng?: RngName;
}

export interface BatchOptions {
  /** N, the most pictures in a batch. */
  readonly size: number;
  readonly defaults: JobDefaults;
  /** Pictures for each prompt, with seeds that follow each other; 1 when left out. */
  readonly count?: number;
  /** Added to the seed for each line, where different prompts want different noise; 0 when left out. */
  readonly seedStep?: number;
  /** Why a picture cannot be made, if it cannot: it becomes an error in its place. */
  readonly fault?: (job: Job) => string | undefined;
  /** Longest wait in ms for a batch to fill once it has begun; 50 when left out. */
  readonly waitMs?: number;
}

/**
 * Cuts a stream of prompts into batches of pictures with equal sampler, steps and guidance. A bad line comes
 * by itself in its place. A batch that has begun does not wait long for more: someone may be typing, and
 * pictures do not depend on what else is in their batch.
 */
export async function* batches(
  items: AsyncIterable<Prompt | BadPrompt> | Iterable<Prompt | BadPrompt>,
  options: BatchOptions,
): AsyncGenerator<readonly Job[] | BadPrompt> {
  const { size, waitMs = 50 } = options;
  const source = asyncIterator(items);
  let next = source.next();
  let batch: Job[] = [];
  for (;;) {
    const result = batch.length > 0 ? await within(next, waitMs) : await next;
    if (result === LATE) {
      yield batch;
      batch = [];
      continue;
    }
    if (result.done) break;
    next = source.next();
    next.catch(() => {}); // it is awaited in the next turn, which reports what went wrong
    if (isBad(result.value)) {
      if (batch.length > 0) yield batch;
      batch = [];
      yield { ...result.value, index: result.value.index * (options.count ?? 1) };
      continue;
    }
    for (const job of jobsOf(result.value, options)) {
      const error = options.fault?.(job);
      if (error !== undefined) {
        if (batch.length > 0) yield batch;
        batch = [];
        yield { index: job.index, error };
        continue;
      }
      if (batch.length > 0 && !fitTogether(batch[0]!, job)) {
        yield batch;
        batch = [];
      }
      batch.push(job);
      if (batch.length === size) {
        yield batch;
        batch = [];
      }
    }
  }
  if (batch.length > 0) yield batch;
}

/** The pictures of one prompt. */
export function jobsOf(item: Prompt, { defaults, count = 1, seedStep = 0 }: BatchOptions): Job[] {
  const first = item.seed ?? wrapSeed(defaults.seed + item.index * seedStep);
  const size = item.size ?? defaults.size;
  return Array.from({ length: count }, (_, k) => {
    const index = item.index * count + k;
    return {
      index,
      prompt: item.prompt,
      negative_prompt: item.negative_prompt ?? defaults.negative_prompt,
      seed: wrapSeed(first + k),
      steps: item.steps ?? defaults.steps,
      cfg_scale: item.cfg_scale ?? defaults.cfg_scale,
      sampler: item.sampler ?? defaults.sampler,
      guidance_interval: item.guidance_interval ?? defaults.guidance_interval,
      ...(size ? { size } : {}),
      ...(defaults.rng === 'torch-cuda' ? { rng: defaults.rng } : {}),
      out: item.out === undefined ? null : count > 1 ? item.out.replace(/\.png$/i, `-${k}.png`) : item.out,
    };
  });
}

/** Seeds are 0 .. 2^53 - 1; counting goes round. */
function wrapSeed(seed: number): number {
  const largest = Number.MAX_SAFE_INTEGER;
  return seed <= largest ? seed : seed - largest - 1;
}

const LATE = Symbol('late');

async function within<T>(promise: Promise<T>, ms: number): Promise<T | typeof LATE> {
  let timer: Timer | undefined;
  const late = new Promise<typeof LATE>((resolve) => {
    timer = setTimeout(resolve, ms, LATE);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

function asyncIterator<T>(items: AsyncIterable<T> | Iterable<T>): AsyncIterator<T> {
  if (Symbol.asyncIterator in items) return items[Symbol.asyncIterator]();
  const iterator = items[Symbol.iterator]();
  return { next: () => Promise.resolve(iterator.next()) };
}
