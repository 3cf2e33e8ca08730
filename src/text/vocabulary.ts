// CLIP's tokenizer with the vocabulary that the executable carries, read when it is first asked for.
import { readFileSync } from 'node:fs';
import path from '../../weights/clip/merges.txt.gz' with { type: 'file' };
import { ClipTokenizer } from './bpe.ts';

let tokenizer: ClipTokenizer | undefined;

/** The one tokenizer of the process. */
export function clipTokenizer(): ClipTokenizer {
  tokenizer ??= new ClipTokenizer(new TextDecoder().decode(Bun.gunzipSync(readFileSync(path))));
  return tokenizer;
}
