// Repairs of text as ftfy 6.3.1's fix_text does them: mojibake, entities, ligatures, widths, quotes, line
// breaks, terminal escapes, control characters, NFC. ftfy is by Robyn Speer, Apache License 2.0; its tables
// are in mojibake.json. Bytes are strings of characters 0..255 here.
import { namedCharacter, unescapeHtml } from './entities.ts';
import tables from './mojibake.json';
import { SPACE, WORD } from './unicode.ts';

/** A single-byte encoding: bytes to characters and back. */
interface Encoding {
  readonly name: string;
  readonly bytes: ReadonlyMap<string, string>;
  readonly sloppy: boolean;
}

const byteAt = (code: number) => String.fromCharCode(code);

/** In a sloppy encoding byte 1A stands for U+FFFD, a character that was lost. */
function encodingOf(name: string, upper: string): Encoding {
  const sloppy = name.startsWith('sloppy');
  const bytes = new Map<string, string>();
  for (let code = 0; code < 0x80; code++) bytes.set(byteAt(code), byteAt(code));
  if (sloppy) {
    bytes.delete('\x1a');
    bytes.set('\ufffd', '\x1a');
  }
  for (let i = 0; i < 0x80; i++) bytes.set(upper[i]!, byteAt(0x80 + i));
  return { name, bytes, sloppy };
}

/** In the order in which they are tried. */
let known: readonly Encoding[] | null = null;
function encodings(): readonly Encoding[] {
  const latin1 = Array.from({ length: 0x80 }, (_, i) => byteAt(0x80 + i)).join('');
  known ??= Object.entries({ 'latin-1': latin1, ...tables.encodings }).map(([name, upper]) =>
    encodingOf(name, upper),
  );
  return known;
}

/** null where a character is not in the encoding. */
function encode(text: string, { bytes }: Encoding): string | null {
  let out = '';
  for (const character of text) {
    const byte = bytes.get(character);
    if (byte === undefined) return null;
    out += byte;
  }
  return out;
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** null where the bytes are no UTF-8. */
function decodeUtf8(bytes: string): string | null {
  try {
    return utf8.decode(Buffer.from(bytes, 'latin1'));
  } catch {
    return null;
  }
}

/** Java's two bytes for U+0000, and surrogate pairs of three bytes each (CESU-8). */
const VARIANT = /\xc0\x80|\xed([\xa0-\xaf])([\x80-\xbf])\xed([\xb0-\xbf])([\x80-\xbf])/g;

/** UTF-8 among which such sequences may stand. */
function decodeVariants(bytes: string): string | null {
  let out = '';
  let from = 0;
  for (const match of bytes.matchAll(VARIANT)) {
    const before = decodeUtf8(bytes.slice(from, match.index));
    if (before === null) return null;
    const [a = 0, b = 0, c = 0, d = 0] = match.slice(1).map((byte) => byte?.charCodeAt(0) ?? 0);
    const code = ((a & 15) << 16) + ((b & 63) << 10) + ((c & 15) << 6) + (d & 63) + 0x10000;
    out += before + (match[1] === undefined ? '\0' : String.fromCodePoint(code));
    from = match.index + match[0].length;
  }
  const rest = decodeUtf8(bytes.slice(from));
  return rest === null ? null : out + rest;
}

/** The named classes of a table in place of {name}. */
function fill(pattern: string, classes: Readonly<Record<string, string>>): string {
  const filled = pattern.replace(/\{([a-z]\w*)\}/g, (_, name: string) => classes[name] ?? '');
  return filled.replaceAll('\\s', `[${SPACE}]`).replaceAll('\\w', `[${WORD}]`);
}

/** Sequences of characters that hardly anybody means. */
const BAD = new RegExp(tables.badness.map((p) => fill(p, tables.classes)).join('|'), 'u');
/** Runs that look like UTF-8 read in a single-byte encoding. */
const UTF8_LIKE = new RegExp(
  fill(
    '(?<![{utf8_continuation_strict}])(?:[{utf8_first_of_2}][{utf8_continuation}]' +
      '|[{utf8_first_of_3}][{utf8_continuation}]{2}|[{utf8_first_of_4}][{utf8_continuation}]{3})+',
    tables.clues,
  ),
  'gu',
);

/** UTF-8 in which byte A0 has become a blank. */
const LOST_A0 = new RegExp(
  [
    '[\\xc2\\xc3\\xc5\\xce\\xd0\\xd9] ',
    '[\\xe2\\xe3] [\\x80-\\x84\\x86-\\x9f\\xa1-\\xbf]',
    '[\\xe0-\\xe3][\\x80-\\x84\\x86-\\x9f\\xa1-\\xbf] ',
    '\\xf0 [\\x80-\\xbf]{2}',
    '\\xf0[\\x80-\\xbf] [\\x80-\\xbf]',
    '\\xf0[\\x80-\\xbf]{2} ',
  ].join('|'),
  'g',
);
/** "a" with a grave accent before a blank is a word of its own, but for a few Portuguese words. */
const GRAVE_WORD = /\xc3 (?! |quele|quela|quilo|s )/g;
/** UTF-8 of which bytes were lost (1A, at most one of them written as ?). */
const LOSSY = new RegExp(
  [
    '[\\xc2-\\xdf]\\x1a',
    '[\\xc2-\\xc3]\\?',
    '\\xed[\\xa0-\\xaf][\\x1a?]\\xed[\\xb0-\\xbf][\\x1a?\\x80-\\xbf]',
    '\\xed[\\xa0-\\xaf][\\x1a?\\x80-\\xbf]\\xed[\\xb0-\\xbf][\\x1a?]',
    '[\\xe0-\\xef][\\x1a?][\\x1a\\x80-\\xbf]',
    '[\\xe0-\\xef][\\x1a\\x80-\\xbf][\\x1a?]',
    '[\\xf0-\\xf4][\\x1a?][\\x1a\\x80-\\xbf]{2}',
    '[\\xf0-\\xf4][\\x1a\\x80-\\xbf][\\x1a?][\\x1a\\x80-\\xbf]',
    '[\\xf0-\\xf4][\\x1a\\x80-\\xbf]{2}[\\x1a?]',
    '\\x1a',
  ].join('|'),
  'g',
);
const LOST = '\xef\xbf\xbd';

const isAscii = (text: string) => !/[^\0-\x7f]/.test(text);
const C1 = /[\x80-\x9f]/g;
const SLOPPY_1252 = tables.encodings['sloppy-windows-1252'];
/** Bytes that Windows-1252 leaves without a character. */
const UNASSIGNED = /[\x81\x8d\x8f\x90\x9d]/;

const fixC1 = (text: string) => text.replace(C1, (c) => SLOPPY_1252[c.charCodeAt(0) - 0x80]!);

/** Text that was encoded in UTF-8 and decoded as something else, as often as it takes. */
function fixEncoding(text: string): string {
  for (let before = text; ; before = text) {
    text = fixEncodingOnce(text);
    if (text === before) return text;
  }
}

function fixEncodingOnce(text: string): string {
  if (isAscii(text) || !BAD.test(text)) return text;
  let latin1: string | null = null;
  for (const encoding of encodings()) {
    let bytes = encode(text, encoding);
    if (bytes === null) continue;
    if (encoding.name === 'latin-1') latin1 = bytes;
    if (encoding.name !== 'macroman' && bytes.search(LOST_A0) >= 0) {
      bytes = bytes.replace(GRAVE_WORD, '\xc3\xa0 ').replace(LOST_A0, (m) => m.replaceAll(' ', '\xa0'));
    }
    if (encoding.sloppy) bytes = bytes.replace(LOSSY, LOST);
    const fixed = /[\xed\xc0]/.test(bytes) ? decodeVariants(bytes) : decodeUtf8(bytes);
    if (fixed !== null) return fixed;
  }
  const parts = text.replace(UTF8_LIKE, (part) =>
    part.length < text.length && BAD.test(part) ? fixEncoding(part) : part,
  );
  if (parts !== text) return parts;
  if (latin1 !== null && !UNASSIGNED.test(latin1)) {
    const fixed = fixC1(latin1);
    if (fixed !== text) return fixed;
  }
  return fixC1(text);
}

/** Names that end in a semicolon, also all in capitals where that is no name of its own; and numbers. */
function unescapeSure(text: string): string {
  return text.replace(/&#?[0-9A-Za-z]{1,24};/g, (whole) => {
    if (whole.startsWith('&#')) {
      const decoded = unescapeHtml(whole);
      return decoded.includes(';') ? whole : decoded;
    }
    const name = whole.slice(1, -1);
    const exact = namedCharacter(name);
    if (exact !== null) return exact;
    if (name !== name.toUpperCase() || unescapeHtml(whole) !== whole) return whole;
    return namedCharacter(name.toLowerCase())?.toUpperCase() ?? whole;
  });
}

const LIGATURES: Readonly<Record<string, string>> = tables.ligatures;
const LIGATURE = new RegExp(`[${Object.keys(LIGATURES).join('')}]`, 'gu');
const CONTROLS = '\\0-\\x08\\x0b\\x0e-\\x1f\\x7f\\u206a-\\u206f\\ufeff\\ufff9-\\ufffc';
const CONTROL = new RegExp(`[${CONTROLS}]`, 'gu');
/** Colours and the like of a terminal. */
const ESCAPE = '\\x1b';
const COLOUR = new RegExp(`${ESCAPE}\\[[\\p{Nd};]*[a-zA-Z]`, 'gu');

/** The fixes that come after those of encodings, in their order. */
const FIXES: readonly ((text: string) => string)[] = [
  fixC1,
  (text) => text.replace(LIGATURE, (c) => LIGATURES[c]!),
  (text) => text.replace(/[\uff01-\uffef]/gu, (c) => c.normalize('NFKC')).replaceAll('\u3000', ' '),
  (text) => text.replace(/[\u201c-\u201f]/gu, '"').replace(/[\u02bc\u2018-\u201b]/gu, "'"),
  (text) => text.replace(/\r\n?|[\u2028\u2029\x85]/gu, '\n'),
  (text) => text.toWellFormed(),
  (text) => text.replace(COLOUR, ''),
  (text) => text.replace(CONTROL, ''),
  (text) => text.normalize('NFC'),
];

function fixLine(line: string, entities: boolean): string {
  for (let text = line; ; ) {
    const before = text;
    if (entities) text = unescapeSure(text);
    text = fixEncoding(text);
    for (const fix of FIXES) text = fix(text);
    if (text === before) return text;
  }
}

/** ftfy.fix_text: line by line; entities are left alone from the first line on that has a `<`. */
export function fixText(text: string): string {
  if (/^[\n -%'-~]*$/.test(text)) return text;
  let entities = true;
  return text.replace(/[^\n]*\n|[^\n]+$/g, (line) => {
    entities &&= !line.includes('<');
    return fixLine(line, entities);
  });
}
