// The tokenizer of the small text encoder, which needs no vocabulary: words, each hashed into two rows of a
// table. A word's embedding is the sum of its two rows (a Bloom embedding), so that two words that share one
// row still differ in the other; the table is trained and lies in the model file.
import { Failure } from '../io/failure.ts';
import { fnv1a } from './fnv.ts';

/** Rows that a word takes from the table. */
export const ROWS_PER_WORD = 2;
/** Id of an empty place. */
export const PADDING = -1;

const SEEDS = [0x9e3779b9, 0x85ebca6b] as const;

/** Words that say nothing about the picture. Kept few: a dropped word can never be learned. */
const STOP_WORDS = new Set(['a', 'an', 'the', 'of', 'emoji', 'style']);

/** Style names are one word each, so that neither "flat shoe" nor a "3d" elsewhere touches them. */
const PHRASES: readonly (readonly [RegExp, string])[] = [
  [/(?<![\p{L}\p{N}])(?:fluent[\s-]+flat|flat[\s-]+fluent)(?![\p{L}\p{N}])/gu, ' fluent_flat '],
  [/(?<![\p{L}\p{N}])(?:fluent[\s-]+3d|3d[\s-]+fluent)(?![\p{L}\p{N}])/gu, ' fluent_3d '],
];

/** The first rows of the table belong to the style words alone: two each. */
const STYLE_WORDS = ['noto', 'fluent_flat', 'fluent_3d'];
const STYLE_ROWS = STYLE_WORDS.length * ROWS_PER_WORD;

export interface Tokens {
  /** Row numbers [S, 2], PADDING after the last word. */
  readonly ids: Int32Array;
  /** The text had more than S words; those after are not in `ids`. */
  readonly truncated: boolean;
}

/**
 * The words of a text in order: NFKC, lower case, accents and apostrophes removed, split at everything that
 * is neither letter nor digit, stop words dropped. A text of stop words alone has no words, like an empty
 * one.
 */
export function wordsOf(text: string): string[] {
  let plain = text.normalize('NFKC').toLowerCase().replace(/['’]/g, '').replaceAll('_', ' ');
  plain = plain
    .normalize('NFD')
    .replace(/[\u0300-\u036f]/g, '')
    .normalize('NFC');
  for (const [phrase, word] of PHRASES) plain = plain.replace(phrase, word);
  const words = plain.match(/[\p{L}\p{N}][\p{L}\p{N}\p{M}_]*/gu) ?? [];
  return words.filter((word) => !STOP_WORDS.has(word));
}

/** The two different rows of a word in a table of V = `rows` rows. Throws when V < 8. */
export function rowsOf(word: string, rows: number): [number, number] {
  if (rows < STYLE_ROWS + ROWS_PER_WORD) {
    const why = `${rows} rows are too few`;
    throw new Failure({ what: 'word table', why, fix: 'Use at least 8 (text.vocab_buckets)', code: 2 });
  }
  const style = STYLE_WORDS.indexOf(word);
  if (style >= 0) return [style * ROWS_PER_WORD, style * ROWS_PER_WORD + 1];
  const free = rows - STYLE_ROWS;
  const first = mix(fnv1a(word, SEEDS[0])) % free;
  const second = mix(fnv1a(word, SEEDS[1])) % free;
  return [STYLE_ROWS + first, STYLE_ROWS + (second === first ? (second + 1) % free : second)];
}

/** Ids of a text for S = `length` words and a table of V = `rows` rows. */
export function tokenize(text: string, length: number, rows: number): Tokens {
  const ids = new Int32Array(length * ROWS_PER_WORD);
  const truncated = tokenizeInto(text, rows, ids);
  return { ids, truncated };
}

/** Writes the ids of a text into `ids` [S, 2], S = ids.length / 2; returns whether words were left over. */
export function tokenizeInto(text: string, rows: number, ids: Int32Array): boolean {
  const words = wordsOf(text);
  const length = ids.length / ROWS_PER_WORD;
  ids.fill(PADDING);
  for (const [s, word] of words.slice(0, length).entries()) ids.set(rowsOf(word, rows), s * ROWS_PER_WORD);
  return words.length > length;
}

/** Spreads a hash over all bits (finaliser of MurmurHash3), since `% rows` looks at few of them. */
function mix(hash: number): number {
  let h = hash;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}
