// Long captions: what is cleaned up takes time in proportion to their length, save for web addresses, and
// gives what the patterns of the reference give.
import { describe, expect, test } from 'bun:test';
import { cleanCaption, cleanPrompt } from '../../src/text/clean.ts';

/** Milliseconds of the quickest of three calls. */
function quickest(call: () => unknown): number {
  const times = Array.from({ length: 3 }, () => {
    const started = performance.now();
    call();
    return performance.now() - started;
  });
  return Math.min(...times);
}

describe('eight times the text takes no more than some eight times the time', () => {
  // One character each; ligatures become three letters.
  test.each(['a', '1', ' x', '\u00a0', '\u0300', 'ﬃ', '\u200d', '中文é', 'Ã©', '1a', '\n'])('%j', (unit) => {
    const text = (length: number) => `x${unit.repeat(length / unit.length)} é`;
    for (const clean of [cleanCaption, cleanPrompt]) {
      quickest(() => clean(text(1000)));
      const short = Math.max(
        0.5,
        quickest(() => clean(text(5000))),
      );
      expect(quickest(() => clean(text(40_000))) / short).toBeLessThan(32);
    }
  });
});

describe('patterns of the reference, and those that stand for them', () => {
  const S = '\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000';
  const FILE = new RegExp(`[^${S}]+\\.(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)`, 'gu');
  test.each([
    ['a.png', ''],
    ['.png', '.png'],
    ['.png.jpg', ''],
    ['x.pngy.jpegz w.mp4', 'z '],
    ['a.jpe.jp', 'a.jpe.jp'],
    ['one.webp two..pdf .apk😀.apk', '  '],
  ])('file names: %j', (text, left) => {
    expect(text.replace(FILE, '')).toBe(left);
    const words = cleanCaption(`see ${text} end`);
    expect(words).toBe(cleanCaption(`see ${left} end`));
  });
});
