// Captions before they are tokenized: OpenCLIP's clean-up, and the far stronger one that micro_diffusion runs
// over cc12m (CaptionProcessor.clean_caption, after DeepFloyd IF's in diffusers), oddities included.
import { unescapeHtml } from './entities.ts';
import { fixText } from './ftfy.ts';
import { textOfMarkup } from './markup.ts';
import { BOUNDARY, oneBlank, SPACE, strip, WORD } from './unicode.ts';

/** ftfy, references decoded twice, ends stripped. */
function basicClean(text: string): string {
  return strip(unescapeHtml(unescapeHtml(fixText(text))));
}

/** OpenCLIP's clean='lower': runs of white space become one blank, lower case comes last. */
export function cleanPrompt(text: string): string {
  return strip(oneBlank(basicClean(text))).toLowerCase();
}

/** micro_diffusion's clean_caption: two passes, since a second one changes a few captions more. */
export function cleanCaption(text: string): string {
  return cleanCaptionOnce(cleanCaptionOnce(text));
}

/**
 * What a pattern is replaced by. Patterns take time in proportion to the text, but for those of ADDRESSES.
 */
type Rule = readonly [RegExp, string | ((match: string) => string)];

/** What Python's classes are where they stand outside of and inside square brackets. */
const CLASSES: Readonly<Record<string, readonly [string, string]>> = {
  '\\w': [`[${WORD}]`, WORD],
  '\\d': ['\\p{Nd}', '\\p{Nd}'],
  '\\D': ['\\P{Nd}', '\\P{Nd}'],
  '\\s': [`[${SPACE}]`, SPACE],
  '\\S': [`[^${SPACE}]`, ''],
  '\\b': [BOUNDARY, ''],
};

/** A pattern of Python's `re`, whose classes know all of Unicode. */
function rule(pattern: string, to: Rule[1]): Rule {
  let inside = false;
  const source = pattern.replace(/\\.|[[\]]/gu, (token) => {
    if (token === '[' || token === ']') inside = token === '[';
    return CLASSES[token]?.[inside ? 1 : 0] ?? token;
  });
  return [new RegExp(source, 'gu'), to];
}

const HOST = '[a-zA-Z0-9.\\-]+[.](?:com|co|ru|net|org|edu|gov|it)[\\w\\/\\-]*\\b\\/?(?!@)';
const SUFFIXES = 'png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4';

/** A run without blanks from behind the last file name in it on. */
function withoutFileName(run: string): string {
  const end = (suffix: string) => {
    const at = run.lastIndexOf(`.${suffix}`);
    return at > 0 ? at + 1 + suffix.length : 0;
  };
  return run.slice(Math.max(...SUFFIXES.split('|').map(end)));
}

const ADDRESSES: readonly Rule[] = [
  rule(`\\b(?:https?:(?:\\/{1,3}|[a-zA-Z0-9%])|${HOST})`, ''),
  rule(`\\b(?:www:(?:\\/{1,3}|[a-zA-Z0-9%])|${HOST})`, ''),
];

const SIGNS: readonly Rule[] = [
  rule('@[\\w]+\\b', ''), // nicknames
  rule('[\\u31c0-\\u4dff\\u4e00-\\u9fff]+', ''), // strokes, enclosed forms, ideographs
  rule(
    '[\\u002d\\u058a\\u05be\\u1400\\u1806\\u2010-\\u2015\\u2e17\\u2e1a\\u2e3a\\u2e3b\\u2e40\\u301c' +
      '\\u3030\\u30a0\\ufe31\\ufe32\\ufe58\\ufe63\\uff0d]+',
    '-',
  ),
  rule('[`´«»“”¨]', '"'),
  rule('[‘’]', "'"),
  rule('&quot;?', ''),
  rule('&amp', ''),
  rule('\\d{1,3}\\.\\d{1,3}\\.\\d{1,3}\\.\\d{1,3}', ' '), // IP addresses
  rule('\\d:\\d\\d\\s+$', ''), // article numbers
  rule('\\\\n', ' '),
  rule('#\\d{1,3}\\b', ''),
  rule('#\\d{5,}\\b', ''),
  rule('\\b\\d{6,}\\b', ''),
  rule('\\S+', withoutFileName), // \S+\.(SUFFIXES), which would be tried from each character of a word
  rule('["\']{2,}', '"'),
  rule('\\.{2,}', ' '),
  rule('[#®•©™&@·º½¾¿¡§~)(\\]\\[}{|\\\\\\/*]+', ' '),
  rule('(?<!\\s)\\s+\\.\\s+', ' '),
];

const PHRASES: readonly Rule[] = [
  rule('\\b[a-zA-Z]{1,3}\\d{3,15}\\b', ''),
  rule('\\b[a-zA-Z]+\\d+[a-zA-Z]+\\b', ''),
  rule('\\b\\d+[a-zA-Z]+\\d+\\b', ''),
  rule('(?:worldwide\\s+)?(?:free\\s+)?shipping', ''),
  rule('(?:free\\s)?download(?:\\sfree)?', ''),
  rule('\\bclick\\b\\s(?:for|on)\\s\\w+', ''),
  rule(`\\b(?:${SUFFIXES})(?:\\simages?)?`, ''),
  rule('\\bpage\\s+\\d+\\b', ''),
  rule('\\b\\d*[a-zA-Z]+\\d+[a-zA-Z]+\\d[a-zA-Z\\d]*\\b', ' '),
  rule('\\b\\d+(?:\\.\\d*)?[xх×]\\d+(?:\\.\\d*)?\\b', ''), // 3 x 4, also with a Cyrillic letter
  rule('\\b\\s+:\\s+', ': '),
  rule('(\\D[,.\\/])\\b', '$1 '),
  rule('\\s+', ' '),
  [/^["'](.+)["']$/su, '$1'],
  [/^['_,\-:;]/u, ''],
  [/['_,\-:+]$/u, ''],
  rule('^\\.\\S+$', ''),
];

const apply = (rules: readonly Rule[], text: string) =>
  rules.reduce(
    (done, [pattern, to]) => (typeof to === 'string' ? done.replace(pattern, to) : done.replace(pattern, to)),
    text,
  );

/** One pass of clean_caption_logic. */
export function cleanCaptionOnce(text: string): string {
  let caption = strip(unquotePlus(text)).toLowerCase().replaceAll('<person>', 'person');
  caption = textOfMarkup(apply(ADDRESSES, caption));
  caption = apply(SIGNS, caption);
  if ((caption.match(/[-_]/g)?.length ?? 0) > 3) caption = caption.replace(/[-_]/g, ' ');
  return strip(apply(PHRASES, basicClean(caption)));
}

const lenient = new TextDecoder('utf-8', { ignoreBOM: true });

/** urllib.parse.unquote_plus: `+` is a blank, %XX a byte of UTF-8. */
function unquotePlus(text: string): string {
  const spaced = text.replaceAll('+', ' ');
  return spaced.replace(/[\0-\x7f]+/g, (run) => {
    if (!run.includes('%')) return run;
    const bytes = run.replace(/%([0-9a-fA-F]{2})/g, (_, hex: string) =>
      String.fromCharCode(Number.parseInt(hex, 16)),
    );
    return lenient.decode(Buffer.from(bytes, 'latin1'));
  });
}
