// Data order: permutations, mixes of sources, batches; all a function of seed and place.
import { describe, expect, test } from 'bun:test';
import { Batches } from '../../src/data/batch.ts';
import { type EmojiPair, openEmoji, packEmoji } from '../../src/data/emoji/set.ts';
import { type Draw, Mix } from '../../src/data/mix.ts';
import { Permutation } from '../../src/data/order.ts';
import { emojiSource, openSources, selectEmoji, shapesSource } from '../../src/data/source.ts';
import { tokenize } from '../../src/text/words.ts';

const draw = (): Draw => ({ source: 0, item: 0, captionIndex: 0 });

describe('permutation', () => {
  test.each([1, 2, 3, 4, 5, 127, 128, 1029, 65_536, 1_000_003])('of %d has each number once', (count) => {
    const order = new Permutation(count, 2 ** 53 - 1, 5);
    const seen = new Uint8Array(count);
    for (let place = 0; place < count; place++) seen[order.at(place)]!++;
    expect(seen.every((times) => times === 1)).toBe(true);
  });

  test('reaches 2^30 items', () => {
    const order = new Permutation(2 ** 30, 1, 1);
    const seen = new Set(Array.from({ length: 1000 }, (_, i) => order.at(2 ** 30 - 1 - i)));
    expect(seen.size).toBe(1000);
    for (const item of seen) expect(item).toBeWithin(0, 2 ** 30);
  });

  test('is another for another seed or stream, and looks random', () => {
    const at = (seed: number, stream: number) => {
      const order = new Permutation(1029, seed, stream);
      return Array.from({ length: 1029 }, (_, place) => order.at(place));
    };
    for (const other of [at(1, 0), at(0, 1), at(2 ** 40, 0)]) {
      const same = other.filter((item, place) => item === at(0, 0)[place]).length;
      expect(same).toBeLessThan(10);
    }
    const order = at(7, 7);
    let correlation = 0;
    for (let i = 1; i < order.length; i++) correlation += (order[i]! - 514) * (order[i - 1]! - 514);
    expect(Math.abs(correlation / order.length / (1029 ** 2 / 12))).toBeLessThan(0.15);
  });
});

describe('mix', () => {
  const parts = [
    { count: 1029, weight: 1 },
    { count: 77, weight: 0.25 },
    { count: 5, weight: 0 },
    { count: 10_007, weight: 0.003 },
  ];

  test('gives every item of a source once an epoch, wherever it is entered', () => {
    const mix = new Mix(parts, 11);
    const drawn: number[][] = parts.map(() => []);
    for (let place = 0; place < 20_000; place++) {
      const { source, item } = mix.at(place, draw());
      drawn[source]!.push(item);
    }
    for (const [source, { count }] of parts.entries()) {
      const items = drawn[source]!;
      for (let from = 0; from + count <= items.length; from += count) {
        expect(new Set(items.slice(from, from + count)).size).toBe(count);
      }
      if (items.length >= 2 * count) expect(items.slice(0, count)).not.toEqual(items.slice(count, 2 * count));
    }
    expect(drawn[2]).toEqual([]);
  });

  test('keeps the weights, evenly', () => {
    const mix = new Mix(parts, 11);
    const counts = [0, 0, 0, 0];
    for (let place = 0; place < 10_240; place++) {
      counts[mix.at(place, draw()).source]!++;
      if (place > 100) expect(Math.abs(counts[1]! / (place + 1) - 0.1996)).toBeLessThan(0.01);
    }
    expect(counts.map((n) => n / 10)).toEqual([818, 204, 0, 2]);
  });

  test('is the same in any order of asking', () => {
    const [a, b] = [new Mix(parts, 3), new Mix(parts, 3)];
    const places = Array.from({ length: 3000 }, (_, i) => i * 977);
    const forward = places.map((place) => ({ ...a.at(place, draw()) }));
    const backward = places.toReversed().map((place) => ({ ...b.at(place, draw()) }));
    expect(backward.toReversed()).toEqual(forward);
    expect({ ...new Mix(parts, 4).at(5, draw()) }).not.toEqual({ ...a.at(5, draw()) });
  });

  test('can be entered far out', () => {
    const { item, source } = new Mix(parts, 3).at(2 ** 50, draw());
    expect(item).toBeWithin(0, parts[source]!.count);
  });

  test('of one source of one item works', () => {
    expect(new Mix([{ count: 1, weight: 3 }], 0).at(5, draw()).item).toBe(0);
  });

  test('refuses no weight and empty sources', () => {
    expect(() => new Mix([{ count: 5, weight: 0 }], 0)).toThrow('no source has a weight');
    expect(() => new Mix([{ count: 0, weight: 1 }], 0)).toThrow('no items');
  });
});

const shape = { size: 16, length: 6, rows: 64 };
const pairs: EmojiPair[] = ['red apple', 'cat', 'dog', 'rocket'].flatMap((name, i) =>
  ['noto', 'fluent flat'].map((style, k) => ({
    ...{ name, style, group: 'any', keywords: ['one', 'two', 'three', 'four'] },
    heldOut: i === 3 && k === 0,
  })),
);
const pictures = pairs.map((_, i) => Uint8Array.from({ length: 64 * 64 * 3 }, (_, k) => (k * (i + 3)) >> 4));
const set = openEmoji(packEmoji(pairs, pictures, { noto: 1, 'fluent flat': 0 }));

describe('sources', () => {
  const emoji = emojiSource(set, [5, 2], shape);

  test('write pictures as planes in [-1, 1]', () => {
    const out = new Float32Array(3 * 256 + 2).fill(9);
    emoji.picture(1, out, 1);
    const rgb = set.image(2, 16);
    for (let i = 0; i < 256; i++) {
      for (let c = 0; c < 3; c++) expect(out[1 + c * 256 + i]).toBe(Math.fround(rgb[i * 3 + c]! / 127.5 - 1));
    }
    expect([out[0], out.at(-1)]).toEqual([9, 9]);
  });

  test.each([emoji, shapesSource(shape, 5)])('write the tokens of the caption: $name', (source) => {
    for (let i = 0; i < 300; i++) {
      const item = i % Math.min(source.count, 150);
      const ids = new Int32Array(14).fill(99);
      source.tokens(item, i, ids, 1);
      const expected = tokenize(source.caption(item, i), shape.length, shape.rows).ids;
      expect([...ids]).toEqual([99, ...expected, 99]);
    }
  });

  test('of a recipe take subset, styles and count, and leave held-out pairs', () => {
    expect(selectEmoji(set, {}, 'data.source.0')).toEqual([0, 1, 2, 3, 4, 5, 7]);
    expect(selectEmoji(set, { styles: ['noto'], count: 2 }, 'data.source.0')).toEqual([0, 2]);
    expect(() => selectEmoji(set, { styles: ['apple'] }, 'data.source.0')).toThrow('data.source.0.styles');
  });
});

describe('batches', () => {
  const configs = [
    { name: 'emoji', weight: 1 },
    { name: 'shapes', weight: 0.5 },
  ] as const;
  const noFolder = () => {
    throw new Error('no source is a folder');
  };
  const batches = new Batches(
    openSources([...configs], { emoji: () => set, folder: noFolder }, shape, 2),
    [1, 0.5],
    shape,
    2,
  );

  test('do not depend on how they are split', () => {
    const whole = batches.allocate(24);
    batches.fill(whole, 1000);
    const pixels = 3 * 16 * 16;
    for (const [first, count] of [
      [1000, 7],
      [1007, 1],
      [1008, 16],
    ] as const) {
      const part = batches.allocate(count);
      batches.fill(part, first);
      const from = first - 1000;
      expect(part.inputs.x0).toEqual(whole.inputs.x0.slice(from * pixels, (from + count) * pixels));
      expect(part.inputs.words).toEqual(whole.inputs.words.slice(from * 12, (from + count) * 12));
      expect([...part.places]).toEqual(Array.from({ length: count }, (_, i) => first + i));
    }
  });

  test('carry the caption of their place', () => {
    const batch = batches.allocate(10);
    batches.fill(batch, 50);
    for (let n = 0; n < 10; n++) {
      const { ids } = tokenize(batches.captionAt(50 + n), shape.length, shape.rows);
      expect([...batch.inputs.words.slice(n * 12, (n + 1) * 12)]).toEqual([...ids]);
    }
  });

  test('refuse buffers of another size', () => {
    const batch = { ...batches.allocate(4), places: new Float64Array(5) };
    expect(() => batches.fill(batch, 0)).toThrow('do not fit 5 images');
  });
});
