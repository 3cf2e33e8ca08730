// What counts as a step that is far out.
import { describe, expect, test } from 'bun:test';
import { splitSource } from '../../../src/data/held-out.ts';
import type { Source } from '../../../src/data/source.ts';
import { SpikeWatch } from '../../../src/train/spikes.ts';

/** A loss that falls and is noisy by some percent, the same every time. */
const loss = (step: number) => Math.exp(-step / 300) * (1 + 0.1 * Math.sin(step * 12.9898));

describe('steps that are far out', () => {
  test('are told with the median before them; noise and a falling loss are not', () => {
    const watch = new SpikeWatch();
    for (let step = 0; step < 600; step++) expect(watch.note(loss(step))).toBeNull();
    const spike = watch.note(6 * loss(600))!;
    expect(spike.value).toBe(6 * loss(600));
    expect(Math.abs(spike.median / loss(536) - 1)).toBeLessThan(0.25);
    for (let step = 601; step < 900; step++) expect(watch.note(loss(step))).toBeNull();
  });

  test('a new level is told for a while, then is the usual one', () => {
    const watch = new SpikeWatch();
    for (let step = 0; step < 200; step++) watch.note(1);
    const told = Array.from({ length: 200 }, () => watch.note(3)).map((spike) => spike !== null);
    expect(told[0]).toBe(true);
    expect(told.at(-1)).toBe(false);
  });

  test('the first steps, and numbers that are not finite, are not judged', () => {
    const watch = new SpikeWatch();
    expect([1, 1, 900, 1, Number.NaN, Number.POSITIVE_INFINITY, 0].map((x) => watch.note(x))).toEqual(
      Array(7).fill(null),
    );
  });
});

test('a source in two parts: each item is in one of them, the held-out ones spread over all', () => {
  const source = (count: number): Source => ({
    ...{ name: 'numbers', count, caption: (item) => String(item) },
    picture() {},
    tokens() {},
  });
  const items = ({ count, caption }: Source) =>
    Array.from({ length: count }, (_, i) => Number(caption(i, 0)));
  for (const [count, validation] of [
    [10, 3],
    [11, 10],
    [7, 1],
    [1000, 333],
  ] as const) {
    const { rest, held } = splitSource(source(count), validation);
    expect(held.count).toBe(validation);
    expect([...items(rest), ...items(held)].sort((a, b) => a - b)).toEqual(items(source(count)));
    expect(items(rest)).toEqual(items(rest).toSorted((a, b) => a - b));
    const gaps = items(held)
      .slice(1)
      .map((item, i) => item - items(held)[i]!);
    expect(Math.max(0, ...gaps) - Math.min(Infinity, ...gaps)).toBeLessThanOrEqual(1);
  }
  expect(() => splitSource(source(5), 5)).toThrow(/^data.validation: 5 samples cannot be held out of 5/);
});
