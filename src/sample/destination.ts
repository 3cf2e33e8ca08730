// Where pictures go (-o): a folder, files after a pattern, one file, or standard output; and what they are
// called. Names come from prompts, which may be hostile: only letters and digits of them are used.
import { statSync } from 'node:fs';
import { basename, dirname, join, normalize } from 'node:path';
import type { Job } from './batches.ts';

export type Destination =
  | { readonly kind: 'folder'; readonly folder: string }
  /** `%04d` in the last part of the path stands for the number of the picture. */
  | { readonly kind: 'pattern'; readonly folder: string; readonly name: string }
  | { readonly kind: 'file'; readonly folder: string; readonly name: string }
  | { readonly kind: 'stream' };

const NUMBER = /%(0?)(\d?)d/;

/** What a value of -o means. A path that ends in .png is a file, unless there is a folder of that name. */
export function destinationOf(output: string): Destination {
  if (output === '-') return { kind: 'stream' };
  const name = basename(output);
  if (output.endsWith('/') || !/\.png$/i.test(name) || isFolder(output)) {
    return { kind: 'folder', folder: output };
  }
  return { kind: NUMBER.test(name) ? 'pattern' : 'file', folder: dirname(output), name };
}

/** Gives each picture its path; no two of a run get the same. */
export class Names {
  private readonly used = new Set<string>();

  /** `numbered`: names begin with the number of the picture, so that a folder lists them in order. */
  constructor(
    private readonly to: Exclude<Destination, { kind: 'stream' }>,
    private readonly numbered: boolean,
  ) {}

  /** The path of a picture, or why it can have none. */
  place(job: Job): { readonly path: string } | { readonly error: string } {
    const { to } = this;
    if (job.out !== null) {
      const name = normalize(job.out);
      if (this.take(name)) return { path: join(to.folder, name) };
      return { error: `out ${JSON.stringify(job.out)} is the name of an earlier picture` };
    }
    if (to.kind === 'file') {
      if (this.take(to.name)) return { path: join(to.folder, to.name) };
      return { error: `-o names one file, ${to.name}, which an earlier picture has` };
    }
    const name = to.kind === 'pattern' ? numberedName(to.name, job.index) : this.ownName(job);
    for (let copy = 1; ; copy++) {
      const other = copy === 1 ? name : name.replace(/(\.png)$/i, `-${copy}$1`);
      if (this.take(other)) return { path: join(to.folder, other) };
    }
  }

  private ownName({ index, prompt, seed }: Job): string {
    const words = slug(prompt);
    const parts = this.numbered ? [String(index).padStart(6, '0'), words, seed] : [words, seed];
    return `${parts.filter((part) => part !== '').join('-')}.png`;
  }

  private take(name: string): boolean {
    if (this.used.has(name)) return false;
    this.used.add(name);
    return true;
  }
}

function numberedName(pattern: string, index: number): string {
  return pattern.replace(NUMBER, (_, zero: string, width: string) =>
    String(index).padStart(Number(width || 0), zero === '0' ? '0' : ' '),
  );
}

/** What a picture is called in an archive: number, prompt (or the name that its line gave) and seed. */
export function memberName({ index, prompt, seed, out }: Job): string {
  const words = slug(out?.replace(/\.png$/i, '') ?? prompt, MEMBER_BYTES);
  const parts = [String(index).padStart(6, '0'), words, ...(out === null ? [seed] : [])];
  return parts.filter((part) => part !== '').join('-');
}

/** File names may have 255 bytes; this leaves room for number, seed and ending. */
const MAX_BYTES = 80;
/** The same for the 100 bytes of names in a tar archive. */
const MEMBER_BYTES = 60;

/** The letters and digits of a prompt, in lower case, with dashes between: `a-red-apple`. */
function slug(prompt: string, most = MAX_BYTES): string {
  const words =
    prompt
      .normalize('NFC')
      .toLowerCase()
      .match(/[\p{L}\p{N}\p{M}]+/gu) ?? [];
  let text = '';
  for (const char of words.join('-')) {
    if (Buffer.byteLength(text + char) > most) break;
    text += char;
  }
  return text.replace(/-$/, '');
}

function isFolder(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
}
