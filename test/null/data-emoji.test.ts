// The emoji pack: coder, file layout, held-out pairs, captions. The last tests use the built pack where there
// is one.
import { describe, expect, test } from 'bun:test';
import { captionForms, captionOf, fullCaption, promptOf } from '../../src/data/emoji/captions.ts';
import { HELD_OUT_SHARE, holdOut } from '../../src/data/emoji/held-out.ts';
import pinned from '../../src/data/emoji/pinned.json';
import { type EmojiPair, openEmoji, packEmoji } from '../../src/data/emoji/set.ts';
import { heldOutBeside, subsetOf } from '../../src/data/emoji/subset.ts';

const NEAR = { noto: 1, 'fluent flat': 0 };
const STYLES = ['noto', 'fluent flat'];

/** A picture with flat parts, edges, slopes and noise. */
function picture(seed: number): Uint8Array {
  const rgb = new Uint8Array(64 * 64 * 3).fill(255);
  let state = seed + 1;
  for (let y = 0; y < 64; y++) {
    for (let x = 0; x < 64; x++) {
      for (let c = 0; c < 3; c++) {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        const noise = state >>> 24;
        const at = (y * 64 + x) * 3 + c;
        if (y < 16 && x > 8) rgb[at] = (seed * 40 + c * 90) & 255;
        else if (y < 32 && x > 8) rgb[at] = (x * 3 + y * (c + 1) + seed) & 255;
        else if (y > 50) rgb[at] = noise;
      }
    }
  }
  return rgb;
}

const pairs: EmojiPair[] = ['red apple', 'cat', 'piñata', 'rocket'].flatMap((name) =>
  STYLES.map((style) => ({ name, style, group: 'any', keywords: ['one', 'two'], heldOut: false })),
);
const pictures = pairs.map((_, i) => picture(i));
const bytes = packEmoji(pairs, pictures, NEAR);

describe('pack', () => {
  test('gives back every picture, lossless or within one step', () => {
    const set = openEmoji(bytes);
    expect(set.pairs).toEqual(pairs);
    for (const [i, source] of pictures.entries()) {
      const seen = set.image(i, 64);
      const worst = source.reduce((m, v, k) => Math.max(m, Math.abs(v - seen[k]!)), 0);
      expect(worst).toBeLessThanOrEqual(NEAR[pairs[i]!.style as keyof typeof NEAR]);
    }
  });

  test('is a function of its input', () => {
    expect(Bun.SHA256.hash(packEmoji(pairs, pictures, NEAR))).toEqual(Bun.SHA256.hash(bytes));
    const other = pictures.map((p, i) => (i === 3 ? picture(99) : p));
    expect(openEmoji(packEmoji(pairs, other, NEAR)).hash).not.toBe(openEmoji(bytes).hash);
  });

  test.each([32, 16, 8])('%d px is the mean of squares, rounded half up', (size) => {
    const set = openEmoji(bytes);
    const k = 64 / size;
    const [full, small] = [set.image(2, 64), set.image(2, size)];
    for (let y = 0; y < size; y++) {
      for (let x = 0; x < size; x++) {
        for (let c = 0; c < 3; c++) {
          let sum = 0;
          for (let d = 0; d < k * k; d++)
            sum += full[((y * k + Math.trunc(d / k)) * 64 + x * k + (d % k)) * 3 + c]!;
          expect(small[(y * size + x) * 3 + c]).toBe(Math.floor(sum / (k * k) + 0.5));
        }
      }
    }
  });

  test('finds pairs by name and style', () => {
    const set = openEmoji(bytes);
    expect(set.find('cat', 'fluent flat')).toBe(3);
    expect(set.find('dog', 'noto')).toBe(-1);
  });

  test('works from bytes that stand anywhere in a buffer', () => {
    const shifted = new Uint8Array(bytes.length + 3);
    shifted.set(bytes, 3);
    expect(openEmoji(shifted.subarray(3)).image(1, 8)).toEqual(openEmoji(bytes).image(1, 8));
  });

  test('refuses what is no pack, cut short or damaged', () => {
    expect(() => openEmoji(new Uint8Array(5))).toThrow('is no emoji pack');
    expect(() => openEmoji(bytes.subarray(0, 20))).toThrow('cut short');
    expect(() => openEmoji(bytes.subarray(0, bytes.length - 1))).toThrow('cut short');
    const inHead = bytes.slice();
    inHead.fill(0, 30, 60);
    expect(() => openEmoji(inHead)).toThrow('damaged');
    const inLast = bytes.slice();
    inLast[bytes.length - 200]! ^= 255;
    expect(() => openEmoji(inLast).image(pairs.length - 1, 64)).toThrow('damaged');
    expect(() => openEmoji(bytes).image(99, 64)).toThrow('there are 8');
    expect(() => openEmoji(bytes).image(0, 48)).toThrow('sizes are');
  });
});

describe('held-out pairs', () => {
  const many = Array.from({ length: 900 }, (_, i) => ({ name: `name ${i >> 1}`, style: STYLES[i & 1]! }));

  test('are 5 %, at most one style of a name, and the same every time', () => {
    const held = holdOut(many);
    expect(held.filter(Boolean).length).toBe(Math.round(900 * HELD_OUT_SHARE));
    for (let i = 0; i < 900; i += 2) expect(held[i]! && held[i + 1]!).toBe(false);
    expect(holdOut(many)).toEqual(held);
  });

  test('never take the only style of a name', () => {
    const lone = Array.from({ length: 100 }, (_, i) => ({ name: `name ${i}`, style: 'noto' }));
    expect(holdOut(lone)).not.toContain(true);
  });
});

describe('captions', () => {
  const apple = { name: 'apple', style: 'fluent 3d', keywords: ['fruit', 'mac'] };

  test('follow the template and the short forms', () => {
    expect(fullCaption(apple)).toBe('a fluent 3d emoji of apple, fruit, mac');
    expect(promptOf({ name: 'red apple', style: 'fluent 3d' })).toBe('a red apple, fluent 3d style');
    expect(captionForms(apple)).toEqual([
      'a fluent 3d emoji of apple, fruit, mac',
      'a fluent 3d emoji of an apple',
      'an apple, fluent 3d style',
      'apple, fluent 3d',
      'fluent 3d apple',
      'an apple',
    ]);
  });

  test('every index gives a form, and all forms come up', () => {
    const seen = new Set(Array.from({ length: 100 }, (_, i) => captionOf(apple, i)));
    expect([...seen].sort()).toEqual(captionForms(apple).sort());
    expect(captionOf(apple, 4_294_967_295)).toBe(captionOf(apple, 95));
  });
});

const file = Bun.file('build/emoji.pack');
const built = (await file.exists()) ? openEmoji(await file.bytes()) : null;
describe.skipIf(!built)('the built pack', () => {
  const set = built!;

  test('has the pinned number of distinct pairs in three styles', () => {
    expect(set.pairs.length).toBe(pinned.pairs);
    expect(set.pairs.length).toBeGreaterThan(5000);
    expect(new Set(set.pairs.map((p) => `${p.name}/${p.style}`)).size).toBe(set.pairs.length);
    expect([...new Set(set.pairs.map((p) => p.style))].sort()).toEqual(['fluent 3d', 'fluent flat', 'noto']);
    expect(set.pairs.filter((p) => p.heldOut).length).toBe(Math.round(set.pairs.length * HELD_OUT_SHARE));
    expect(set.find('red apple', 'fluent 3d')).toBeGreaterThan(0);
  });

  test.each([
    { name: 'subset', least: 1000, names: 400 },
    { name: 'quickstart', least: 128, names: 40 },
  ] as const)(
    '$name: distinct trained pairs of all styles',
    ({ name, least, names }) => {
      const list = subsetOf(set, name);
      const pairs = list.map((i) => set.pairs[i]!);
      expect(list.length).toBeGreaterThanOrEqual(least);
      expect(new Set(list).size).toBe(list.length);
      expect(new Set(pairs.map((p) => p.name)).size).toBeGreaterThanOrEqual(names);
      expect(new Set(pairs.map((p) => p.style)).size).toBe(3);
      expect(pairs.some((p) => p.heldOut)).toBe(false);
      expect(heldOutBeside(set, list).length).toBeGreaterThan(0);
      const pictures = list.map((i) => set.image(i, 16));
      let [near, nearSame] = [Infinity, Infinity];
      for (let a = 0; a < list.length; a++) {
        for (let b = 0; b < a; b++) {
          let sum = 0;
          for (let k = 0; k < 768; k++) sum += (pictures[a]![k]! - pictures[b]![k]!) ** 2;
          if (pairs[a]!.name === pairs[b]!.name) nearSame = Math.min(nearSame, sum / 768);
          else near = Math.min(near, sum / 768);
        }
      }
      expect(near).toBeGreaterThan(1700); // at 16 px; more at 32 px
      expect(nearSame).toBeGreaterThan(150);
    },
    300_000,
  );

  test('subsets have the best known first, and no other names', () => {
    expect(subsetOf(set, 'quickstart')).toContain(set.find('red apple', 'fluent 3d'));
    expect(() => subsetOf(set, 'best')).toThrow('no such part');
  });

  test('holds the pictures that its hash says, decoded in seconds', () => {
    const hasher = new Bun.CryptoHasher('sha256');
    for (const [i, pair] of set.pairs.entries()) {
      hasher.update(`${pair.name}\0${pair.style}\0`).update(set.image(i, 64));
    }
    expect(hasher.digest('hex')).toBe(set.hash);
  }, 300_000);
});
