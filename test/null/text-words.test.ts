// The word tokenizer: splitting, stop words, style words, hashing, cutting.
import { describe, expect, test } from 'bun:test';
import { fnv1a } from '../../src/text/fnv.ts';
import { PADDING, rowsOf, tokenize, wordsOf } from '../../src/text/words.ts';

const V = 4096;

describe('fnv1a', () => {
  test.each([
    ['', 0x811c9dc5],
    ['a', 0xe40c292c],
    ['foobar', 0xbf9cf968],
  ])("of '%s' is the published value", (text, hash) => {
    expect(fnv1a(text)).toBe(hash);
  });
});

describe('words', () => {
  test.each([
    ['a red apple, fluent 3d style', ['red', 'apple', 'fluent_3d']],
    ['An emoji of THE Red-Apple_pie!', ['red', 'apple', 'pie']],
    ['flat shoe, Fluent Flat', ['flat', 'shoe', 'fluent_flat']],
    ['3D fluent cat', ['fluent_3d', 'cat']],
    ['fluent flats', ['fluent', 'flats']],
    ['a 3d printer', ['3d', 'printer']],
    ["man's shoe, twelve o’clock", ['mans', 'shoe', 'twelve', 'oclock']],
    ['piñata ＣＡＦÉ ½', ['pinata', 'cafe', '1', '2']],
    ['猫 と 犬 кот', ['猫', 'と', '犬', 'кот']],
    ['  \t\n', []],
    ['a, the: of... style', []],
    ['🍎 ❤️', []],
  ])("of '%s'", (text, words) => {
    expect(wordsOf(text)).toEqual(words);
  });

  test('letters that need their marks keep them', () => {
    expect(wordsOf('がく')).toEqual(['がく']);
    expect(wordsOf('हिन्दी')).toHaveLength(1);
  });
});

describe('tokens', () => {
  test('are two different rows a word, then padding', () => {
    const { ids, truncated } = tokenize('red apple', 4, V);
    expect([...ids.slice(0, 4)]).toEqual([...rowsOf('red', V), ...rowsOf('apple', V)]);
    expect([...ids.slice(4)]).toEqual([PADDING, PADDING, PADDING, PADDING]);
    expect(truncated).toBe(false);
    for (let i = 0; i < 2000; i++) {
      const [a, b] = rowsOf(`word${i}`, 16);
      expect(a).not.toBe(b);
      expect(Math.min(a, b)).toBeGreaterThanOrEqual(6);
      expect(Math.max(a, b)).toBeLessThan(16);
    }
  });

  test('of styles stand in rows of their own', () => {
    expect(rowsOf('noto', V)).toEqual([0, 1]);
    expect([...tokenize('fluent flat fluent 3d', 2, V).ids]).toEqual([2, 3, 4, 5]);
  });

  test('say when words were left over', () => {
    expect(tokenize('one two three', 3, V).truncated).toBe(false);
    expect(tokenize('one two three four', 3, V).truncated).toBe(true);
    expect(tokenize('one two three a the', 3, V).truncated).toBe(false);
  });

  test('are spread evenly over the table', () => {
    const used = new Float64Array(64);
    for (let i = 0; i < 20_000; i++) for (const row of rowsOf(`w${i}x`, 64)) used[row]!++;
    const mean = 40_000 / 58;
    for (const count of used.subarray(6)) expect(Math.abs(count - mean)).toBeLessThan(5 * Math.sqrt(mean));
  });

  test('do not change: trained models depend on them', () => {
    expect(rowsOf('apple', V)).toEqual([1383, 62]);
    expect(rowsOf('猫', V)).toEqual([231, 561]);
  });

  test('need a table of at least 8 rows', () => {
    expect(() => rowsOf('red', 7)).toThrow('too few');
  });
});
