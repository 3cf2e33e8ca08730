// From prompts to batches: order, settings, seeds, names, and no long wait for a batch to fill.

import { describe, expect, test } from 'bun:test';
import { type BatchOptions, batches } from '../../../src/sample/batches.ts';
import type { BadPrompt, Prompt } from '../../../src/sample/prompts.ts';

const defaults = {
  negative_prompt: 'blur',
  seed: 10,
  steps: 30,
  cfg_scale: 5,
  sampler: 'heun' as const,
  guidance_interval: null,
};

async function collect(items: Iterable<Prompt | BadPrompt>, options: Partial<BatchOptions> = {}) {
  const out = [];
  for await (const batch of batches(items, { size: 3, defaults, ...options })) out.push(batch);
  return out;
}

const prompts = (n: number): Prompt[] =>
  Array.from({ length: n }, (_, index) => ({ index, prompt: `p${index}` }));
const shape = (out: Awaited<ReturnType<typeof collect>>) =>
  out.map((batch) => ('error' in batch ? batch.error : batch.map((job) => job.index)));

test('a picture that cannot be made is an error in its place', async () => {
  const out = await collect(prompts(3), { fault: ({ index }) => (index === 1 ? 'too large' : undefined) });
  expect(shape(out)).toEqual([[0], 'too large', [2]]);
});

describe('batches', () => {
  test('full ones, then what is left; settings are filled in', async () => {
    const out = await collect(prompts(4));
    expect(shape(out)).toEqual([[0, 1, 2], [3]]);
    expect((out[1] as object[])[0]).toEqual({
      index: 3,
      prompt: 'p3',
      negative_prompt: 'blur',
      seed: 10,
      steps: 30,
      cfg_scale: 5,
      sampler: 'heun',
      guidance_interval: null,
      out: null,
    });
    expect(await collect([])).toEqual([]);
  });

  test('a bad line comes in its place', async () => {
    const items = [...prompts(2), { index: 2, error: 'blank' }, { index: 3, prompt: 'p3' }];
    expect(shape(await collect(items))).toEqual([[0, 1], 'blank', [3]]);
  });

  test('pictures with another sampler, other steps or guidance do not share a batch', async () => {
    const items = prompts(7).map((item, i) =>
      i === 6
        ? { ...item, guidance_interval: [0, 1] as const }
        : i === 4
          ? { ...item, sampler: 'euler' as const }
          : i === 1
            ? { ...item, steps: 2 }
            : i === 3
              ? { ...item, cfg_scale: 1 }
              : item,
    );
    expect(shape(await collect(items))).toEqual([[0], [1], [2], [3], [4], [5], [6]]);
  });

  test('several pictures a prompt: seeds follow each other, names too', async () => {
    const items = [
      { index: 0, prompt: 'a' },
      { index: 1, prompt: 'b', seed: 2 ** 53 - 1, out: 'b.png' },
    ];
    const jobs = (await collect(items, { size: 8, count: 2 })).flat() as {
      seed: number;
      out: string | null;
      index: number;
    }[];
    expect(jobs.map(({ index, seed, out }) => [index, seed, out])).toEqual([
      [0, 10, null],
      [1, 11, null],
      [2, 2 ** 53 - 1, 'b-0.png'],
      [3, 0, 'b-1.png'],
    ]);
    const bad = await collect([{ index: 3, error: 'x' }], { count: 2 });
    expect(bad).toEqual([{ index: 6, error: 'x' }]);
  });

  test('a seed step gives every line its own noise', async () => {
    const jobs = (await collect(prompts(3), { seedStep: 2 })).flat() as { seed: number }[];
    expect(jobs.map((job) => job.seed)).toEqual([10, 12, 14]);
  });

  test('a slow stream: what is there is made, nothing is lost', async () => {
    async function* slow() {
      yield* prompts(2);
      await Bun.sleep(40);
      yield { index: 2, prompt: 'late' };
    }
    const out = [];
    for await (const batch of batches(slow(), { size: 3, defaults, waitMs: 5 })) out.push(batch);
    expect(shape(out)).toEqual([[0, 1], [2]]);
  });

  test('an error of the stream comes after what was read before it', async () => {
    async function* broken() {
      yield* prompts(1);
      throw new Error('gone');
    }
    const seen: unknown[] = [];
    const all = async () => {
      for await (const batch of batches(broken(), { size: 1, defaults })) seen.push(batch);
    };
    expect(all()).rejects.toThrow('gone');
    await Bun.sleep(5);
    expect(seen.length).toBe(1);
  });
});
