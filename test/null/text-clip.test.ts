// OpenCLIP's tokenizer and both clean-ups of captions: every golden caption, as many of our own with what the
// Python libraries made of them, and the corners one by one.
import { describe, expect, test } from 'bun:test';
import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { verifyCaptionClean, verifyTokenizer } from '../../src/eval/captions.ts';
import { ClipTokenizer, CLIP_VOCABULARY } from '../../src/text/bpe.ts';
import { cleanCaption, cleanCaptionOnce, cleanPrompt } from '../../src/text/clean.ts';
import { unescapeHtml } from '../../src/text/entities.ts';
import { fixText } from '../../src/text/ftfy.ts';
import { textOfMarkup } from '../../src/text/markup.ts';
import { clipTokenizer } from '../../src/text/vocabulary.ts';

const goldens = (name: string) => new URL(`../goldens/${name}`, import.meta.url).pathname;

interface MadeUp {
  readonly text: string;
  readonly ids: readonly number[];
  readonly n: number;
  readonly clean: string;
  readonly once: string;
  readonly out: string;
}

const madeUp = gunzipSync(readFileSync(goldens('captions/made-up.jsonl.gz')))
  .toString()
  .trim()
  .split('\n')
  .map((line) => JSON.parse(line) as MadeUp);

/** Ids without the zeros after them. */
const idsOf = (text: string) => [...clipTokenizer().encode(text).ids].filter((id) => id !== 0);

describe('goldens', () => {
  test.each([...verifyTokenizer(goldens('tokenizer')), ...verifyCaptionClean(goldens('caption-clean'))])(
    '$group',
    ({ status, error }) => {
      expect({ status, error }).toEqual({ status: 'pass', error: 0 });
    },
  );

  test('captions that no golden set has', () => {
    expect(madeUp.length).toBeGreaterThan(400);
    for (const { text, ids, n, clean, once, out } of madeUp) {
      expect(cleanPrompt(text)).toBe(clean);
      expect(idsOf(text)).toEqual(ids.filter((id) => id !== 0));
      expect(clipTokenizer().encode(text).count).toBe(n);
      expect(cleanCaptionOnce(text)).toBe(once);
      expect(cleanCaption(text)).toBe(out);
    }
  });

  test('a mark whose capital is a letter is left out, and parts what is around it', () => {
    const ids = (text: string) => idsOf(text).slice(1, -1);
    expect(ids('\u0345')).toEqual([]);
    expect(ids('!\u0345!')).toEqual(ids('! !'));
    expect(ids('ab\u0345c')).toEqual(ids('ab c'));
  });

  test('a wrong merge is noticed', () => {
    const text = new TextDecoder().decode(
      Bun.gunzipSync(readFileSync(new URL('../../weights/clip/merges.txt.gz', import.meta.url))),
    );
    const lines = text.split('\n');
    [lines[7], lines[2000]] = [lines[2000]!, lines[7]!];
    const wrong = new ClipTokenizer(lines.join('\n'));
    expect(madeUp.some(({ text: t, ids }) => ids.some((id, i) => wrong.encode(t).ids[i] !== id))).toBe(true);
  });
});

describe('tokens', () => {
  test.each([
    ['', [49406, 49407]],
    [' \t\r\n', [49406, 49407]],
    ['<start_of_text>x<END_OF_TEXT>', [49406, 49406, 343, 49407, 49407]],
    ['hello world!', [49406, 3306, 1002, 256, 49407]],
  ])('of %j', (text, ids) => expect(idsOf(text)).toEqual(ids));

  test('a text that is too long is cut, its last token is the end', () => {
    const { ids, count } = clipTokenizer().encode('cat '.repeat(90));
    expect([ids.length, ids[0], ids[75], ids[76], count]).toEqual([77, 49406, 2368, 49407, 92]);
    const fits = clipTokenizer().encode('cat '.repeat(75));
    expect([fits.ids[75], fits.ids[76], fits.count]).toEqual([2368, 49407, 77]);
  });

  test('other lengths of context', () => {
    expect([...clipTokenizer().encode('a red apple', 4).ids]).toEqual([49406, 320, 736, 49407]);
  });

  test('every byte has its token, whatever the character', () => {
    for (const code of [0x80, 0xad, 0xff, 0x2028, 0xd7ff, 0xe000, 0xffff, 0x10ffff]) {
      const ids = idsOf(`x${String.fromCodePoint(code)}`);
      expect(ids.every((id) => id > 0 && id < CLIP_VOCABULARY)).toBe(true);
    }
    expect(idsOf('\ud83d x')).toEqual(idsOf('\ufffd x'));
  });

  test('a word of 20,000 characters takes no minute', () => {
    const { count } = clipTokenizer().encode('abcdefghij'.repeat(2000));
    expect(count).toBeGreaterThan(1000);
  }, 10_000);

  test('more words than are remembered', () => {
    const tokenizer = clipTokenizer();
    const before = idsOf('a photo of a cat');
    for (let i = 0; i < 3000; i++) {
      const letters = Array.from({ length: 30 }, (_, k) => ((i * 30 + k) * 7919).toString(36)).join(' ');
      tokenizer.encode(letters.replace(/\d/g, 'q'));
    }
    expect(idsOf('a photo of a cat')).toEqual(before);
  });
});

describe('pieces of the clean-up', () => {
  test.each([
    ['&lt;b&gt; &copy2 &notit; &#x27; &#150; &#0; &#1;|&bogus; &', "<b> ©2 ¬it; ' – \ufffd |&bogus; &"],
    ['&CounterClockwiseContourIntegral;&amp', '∳&'],
  ])('references in %j', (text, plain) => expect(unescapeHtml(text)).toBe(plain));

  test.each([
    ['âœ” No problems', '✔ No problems'],
    ['&macr;\\_(ã\x83\x84)_/&macr;', '¯\\_(ツ)_/¯'],
    ['Broken text&hellip; it&#x2019;s ﬂubberiﬁc!', "Broken text… it's flubberific!"],
    ['ＬＯＵＤ　ＮＯＩＳＥＳ', 'LOUD NOISES'],
    ['P&EACUTE;REZ &nTILDE;', 'PÉREZ &nTILDE;'],
    ['a < b &amp; c\n&amp;', 'a < b &amp; c\n&amp;'],
    ['\x1b[36;44mblue\x1b[0m\x07', 'blue'],
    ['voilÃ le travail', 'voilà le travail'],
    ['â€œ like this â€�', '" like this �'],
    ['e\u0301', '\xe9'],
  ])('repairs of %j', (text, fixed) => expect(fixText(text)).toBe(fixed));

  test.each([
    ['unclosed <b bold text', 'unclosed <b bold text'],
    ['a<br></br>b<br/>c', 'abc'],
    ['<ruby>a<rt>b</rt></ruby><!-- c --><!doctype d><?e?>', 'a'],
    ['a<script>1 < 2</script>b<style>c', 'ab'],
    ['<![CDATA[x < y]]>&hellip &bogus; &#150;&#x41;', 'x < y… &bogus –A'],
    ['<b>a</b> \n <i>c</i> <pre>  </pre>', 'a\nc   '],
    ['3 < 4 & 5 > 2 <', '3 < 4 & 5 > 2 <'],
    ['<p title="a>b">c</p></>d</ x>', 'cd'],
  ])('text of %j', (html, text) => expect(textOfMarkup(html)).toBe(text));
});
