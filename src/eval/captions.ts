// Conformance of texts, compared exactly: token ids, and captions after their clean-up. An error is the
// number of ids or characters that differ in the worst caption.
import { join } from 'node:path';
import { cleanCaption, cleanCaptionOnce, cleanPrompt } from '../text/clean.ts';
import { clipTokenizer } from '../text/vocabulary.ts';
import { attempt, Group, type GroupResult } from './conformance.ts';
import { JsonObject } from './json-file.ts';

const FILE = 'captions.jsonl';

/** `text`; of it `ids` (as many as the context is long), `clean` and `n`, where a line has them. */
export function verifyTokenizer(dir: string): readonly GroupResult[] {
  return attempt('tokenizer', () => {
    const [ids, clean, counts] = ['token ids', 'text', 'token counts'].map((name) => new Group(name, 0));
    const tokenizer = clipTokenizer();
    for (const line of JsonObject.readLines(join(dir, FILE))) {
      const text = line.text('text');
      const theirs = line.numbers('ids');
      const ours = tokenizer.encode(text, theirs.length || undefined);
      if (line.has('ids')) ids?.add(differing(ours.ids, theirs), quoted(text));
      if (line.has('clean'))
        clean?.add(differing([...cleanPrompt(text)], [...line.text('clean')]), quoted(text));
      if (line.has('n')) counts?.add(Math.abs(ours.count - line.number('n')), quoted(text));
    }
    return [ids, clean, counts].map((group) => group?.result() ?? null);
  });
}

/** `in`; of it `once` (one pass) and `out` (two), where a line has them. */
export function verifyCaptionClean(dir: string): readonly GroupResult[] {
  return attempt('caption-clean', () => {
    const [once, twice] = ['one pass', 'two passes'].map((name) => new Group(name, 0));
    for (const line of JsonObject.readLines(join(dir, FILE))) {
      const text = line.text('in');
      const check = (group: Group | undefined, key: string, clean: (text: string) => string) => {
        if (line.has(key)) group?.add(differing([...clean(text)], [...line.text(key)]), quoted(text));
      };
      check(once, 'once', cleanCaptionOnce);
      check(twice, 'out', cleanCaption);
    }
    return [once, twice].map((group) => group?.result() ?? null);
  });
}

/** Places at which two lists are not the same. */
function differing<T>(ours: ArrayLike<T>, theirs: ArrayLike<T>): number {
  const places = Array.from({ length: Math.max(ours.length, theirs.length) }, (_, i) => i);
  return places.filter((i) => ours[i] !== theirs[i]).length;
}

/** The beginning of a caption on one line. */
function quoted(text: string): string {
  return JSON.stringify([...text].slice(0, 40).join(''));
}
