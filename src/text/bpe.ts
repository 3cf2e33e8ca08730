// OpenCLIP's tokenizer: byte pair encoding over the bytes of words, with CLIP's vocabulary of 49,408 entries.
// After the clean-up a text is cut into words; a word begins as its bytes, the last one marked as an end, and
// again and again the neighbours with the lowest rank are merged, wherever they stand in the word.
import { cleanPrompt } from './clean.ts';

/** Tokens that a text may have, begin and end included, in every published model. */
export const CLIP_CONTEXT = 77;

const MERGES = 49_152 - 256 - 2;
const FIRST_MERGE = 512;
const START = FIRST_MERGE + MERGES;
const END = START + 1;
const SPECIAL: Readonly<Record<string, number>> = { '<start_of_text>': START, '<end_of_text>': END };
export const CLIP_VOCABULARY = END + 1;

/** Words whose tokens are remembered. All are forgotten at once when there are more. */
const REMEMBERED = 65_536;

/**
 * Texts are in lower case, but for the long s, which counts as an s. Marks that combine (\p{M}) are no
 * letters.
 * U+0345 is nothing at all and left out: a mark whose capital is a letter, which by Python's rules of
 * matching without case fits neither what is a letter nor what is none.
 */
const WORDS = new RegExp(
  [
    ...['<[sſ]tart_of_text>', '<end_of_text>', "'[sſ]", "'t", "'re", "'ve", "'m", "'ll", "'d"],
    ...['\\p{L}+', '\\p{N}', '[^\\p{White_Space}\\p{L}\\p{N}\\u0345]+'],
  ].join('|'),
  'gu',
);

/** Bytes in the order of the vocabulary: those that are visible in Latin-1, then the others. */
const BYTE_ORDER: readonly number[] = (() => {
  const all = Array.from({ length: 256 }, (_, byte) => byte);
  const visible = (b: number) => (b >= 33 && b <= 126) || (b >= 161 && b !== 173);
  return [...all.filter(visible), ...all.filter((b) => !visible(b))];
})();

/** Two ids below 65,536 as one integer of 32 bits, which maps are fast with. */
const pair = (a: number, b: number) => (a << 16) | b;

export interface ClipTokens {
  /** [length]: start, words, end, then zeros. */
  readonly ids: Int32Array;
  /** Tokens of the whole text, start and end included. */
  readonly count: number;
}

export class ClipTokenizer {
  /** Id of each byte inside a word; at its end 256 more. */
  private readonly ofByte = new Uint16Array(256);
  /** Two neighbouring ids -> id of both. A lower id has the lower rank. */
  private readonly merges = new Map<number, number>();
  private readonly known = new Map<string, readonly number[]>();

  /** `merges`: the lines of CLIP's vocabulary file, the first of which is its version. */
  constructor(merges: string) {
    for (const [id, byte] of BYTE_ORDER.entries()) this.ofByte[byte] = id;
    const ids = new Map<string, number>();
    let hidden = 256;
    for (const [id, byte] of BYTE_ORDER.entries()) {
      const name = String.fromCharCode(id < 188 ? byte : hidden++);
      ids.set(name, id);
      ids.set(`${name}</w>`, 256 + id);
    }
    let id = FIRST_MERGE;
    for (const line of merges.split('\n').slice(1, 1 + MERGES)) {
      const [a = '', b = ''] = line.split(' ');
      this.merges.set(pair(ids.get(a)!, ids.get(b)!), id);
      ids.set(a + b, id++);
    }
  }

  /** Ids of a text as SimpleTokenizer()(text, context_length=length) gives them. */
  encode(text: string, length = CLIP_CONTEXT): ClipTokens {
    const ids = new Int32Array(length);
    const count = this.encodeInto(text, ids);
    return { ids, count };
  }

  /**
   * Writes the ids of a text into `ids`: cut to their number with the end token in the last place, or filled
   * up with zeros. Returns the number of tokens before the cut.
   */
  encodeInto(text: string, ids: Int32Array): number {
    ids.fill(0);
    let count = 0;
    const put = (id: number) => {
      if (count < ids.length) ids[count] = id;
      count += 1;
    };
    put(START);
    for (const [word] of cleanPrompt(text).matchAll(WORDS)) this.tokensOf(word).forEach(put);
    put(END);
    if (count > ids.length) ids[ids.length - 1] = END;
    return count;
  }

  private tokensOf(word: string): readonly number[] {
    const special = SPECIAL[word];
    if (special !== undefined) return [special];
    const known = this.known.get(word);
    if (known) return known;
    const tokens = this.merge(Array.from(Buffer.from(word, 'utf8'), (byte) => this.ofByte[byte]!));
    if (this.known.size >= REMEMBERED) this.known.clear();
    this.known.set(word, tokens);
    return tokens;
  }

  private merge(word: number[]): number[] {
    word[word.length - 1]! += 256;
    while (word.length > 1) {
      let best = Number.POSITIVE_INFINITY;
      for (let i = 1; i < word.length; i++) {
        best = Math.min(best, this.merges.get(pair(word[i - 1]!, word[i]!)) ?? best);
      }
      if (best === Number.POSITIVE_INFINITY) break;
      let to = 0;
      for (let i = 0; i < word.length; i++) {
        const merged = i + 1 < word.length && this.merges.get(pair(word[i]!, word[i + 1]!)) === best;
        word[to++] = merged ? best : word[i]!;
        if (merged) i += 1;
      }
      word.length = to;
    }
    return word;
  }
}
