// The tree in README.md: its form, its check, and a printer of a first draft.
//
//   bun test/tree.ts        prints one line a file, with the beginning of the file's first comment
//
// Form: a fenced block whose first line is `microdiff/`; then a line for a file (`src/cli/main.ts   words`)
// or for a folder, which stands for all in it without a line of its own (`test/goldens/   words`).
import { existsSync, readFileSync } from 'node:fs';

/** Every file that git tracks or would track, without those just deleted. Paths start at the root. */
export function trackedFiles(): string[] {
  const command = ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'];
  const { stdout, stderr, success } = Bun.spawnSync(command);
  if (!success) throw new Error(`git ls-files: ${stderr.toString().trim()}`);
  const files = stdout.toString().split('\0');
  return files.filter((file) => file !== '' && existsSync(file)).sort();
}

/** What is wrong with the tree in `readme`, a sentence each: lines for nothing, files without a line. */
export function treeFaults(readme: string, files: readonly string[]): string[] {
  const block = /^```[a-z]*\nmicrodiff\/\n([\s\S]*?)^```/m.exec(readme)?.[1];
  if (block === undefined) return ['README.md has no block that begins with the line microdiff/'];
  const faults: string[] = [];
  const listed = new Set<string>();
  for (const line of block.split('\n').filter((text) => text.trim() !== '')) {
    const [, path, words] = /^\s*(\S+)\s\s+(\S.*)$/.exec(line) ?? [];
    if (!path || !words) faults.push(`not "path  words": ${line}`);
    else if (listed.has(path)) faults.push(`two lines for ${path}`);
    else listed.add(path);
  }
  for (const path of listed) {
    const found = path.endsWith('/') ? files.some((file) => file.startsWith(path)) : files.includes(path);
    if (!found) faults.push(`a line for ${path}, which is not there`);
  }
  for (const file of files) {
    if (!parents(file).some((path) => listed.has(path))) faults.push(`no line for ${file}`);
  }
  return faults;
}

/** `a/b/c.ts` -> `a/b/c.ts`, `a/b/`, `a/`: a line for any covers the file. Lines for src/ or test/ do not. */
function parents(file: string): string[] {
  const parts = file.split('/');
  const folders = parts.slice(0, -1).map((_, depth) => `${parts.slice(0, depth + 1).join('/')}/`);
  return [file, ...folders.filter((folder) => folder !== 'src/' && folder !== 'test/').reverse()];
}

/** The first sentence of a file's first comment, which says what is in it. */
export function firstSentence(text: string): string {
  const lines = text.split('\n').filter((line) => line.trim() !== '' && !line.startsWith('#!'));
  const comment: string[] = [];
  for (const line of lines) {
    const words = /^\s*(?:\/\/|\/?\*+|#)\s?(.*?)(?:\*\/)?\s*$/.exec(line)?.[1];
    if (!words) break;
    comment.push(words.trim());
  }
  const joined = comment.join(' ');
  return (/^.*?(?<!\b(?:al|Sec|Eq))\.(?=\s|$)/.exec(joined)?.[0] ?? joined).replace(/\.$/, '');
}

/** Shortened to `width` columns, at the last place where the sentence could end. */
function shortened(sentence: string, width: number): string {
  if (sentence.length <= width) return sentence;
  const cuts = [...sentence.matchAll(/[,;:](?= )| \(| and | that | which /g)].map((match) => match.index);
  const cut = cuts.filter((at) => at <= width).at(-1) ?? sentence.lastIndexOf(' ', width);
  return sentence.slice(0, cut).replace(/,$/, '');
}

/** What cannot say by itself what it is. */
const WORDS: Record<string, string> = {
  '.gitignore': 'what git leaves alone',
  LICENSE: 'MIT',
  'README.md': 'this page',
  'biome.json': 'style and lint rules',
  'bun.lock': 'every npm package with its checksum',
  'package.json': 'packages and their pinned versions',
  'tsconfig.json': 'the type checker, as strict as it goes',
  'bench/SPEED.md': 'the log of speed attempts, failures too',
  'recipes/README.md': 'every key of a recipe',
  'src/cli/licenses/': 'the licence texts that travel in the executable',
  'src/data/emoji/ATTRIBUTION.md': 'who drew the emoji',
  'src/data/emoji/pinned.json': 'versions and hash of the emoji pack',
  'src/data/emoji/subset.json': 'the emoji that the small models learn',
  'test/goldens/': 'numbers of the reference implementation, the smallest sets',
  'test/null/cli/__snapshots__/': 'help texts as they should be',
  'weights/': 'the model that ships, with its recipe and metrics',
};

if (import.meta.main) {
  const files = trackedFiles();
  const folders = Object.keys(WORDS).filter((path) => path.endsWith('/'));
  const alone = files.filter((file) => !folders.some((folder) => file.startsWith(folder)));
  const paths = [...alone, ...folders.filter((folder) => files.some((file) => file.startsWith(folder)))];
  const width = Math.max(...paths.map((path) => path.length));
  const lines = paths.sort().map((path) => {
    const words = WORDS[path] ?? firstSentence(readFileSync(path, 'utf8'));
    return `${path.padEnd(width)}  ${shortened(words, 108 - width)}`;
  });
  console.log(`microdiff/\n${lines.join('\n')}`);
}
