// The rules of the house, checked on every file that git tracks or would track: floors, sizes, names, the
// few places that may hold addresses, print or exit, and the tree in the README.
import { describe, expect, test } from 'bun:test';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { trackedFiles, treeFaults } from '../tree.ts';

const MIB = 1 << 20;
const FILES = trackedFiles();
const CODE = FILES.filter((file) =>
  /\.(ts|cu|cuh|cpp|c|h|sh|mk|toml|py)$|(^|\/)Makefile$|^\.ci\//.test(file),
);
const TYPESCRIPT = CODE.filter((file) => file.endsWith('.ts'));
const SELF = 'test/null/house.test.ts'; // names what it forbids

const read = (file: string) => readFileSync(file, 'utf8');
const lines = (file: string) => read(file).replace(/\n$/, '').split('\n');

/** The code of a TypeScript file without its comments. */
const bare = (file: string) =>
  read(file)
    .replace(/\/\*[\s\S]*?\*\//g, '')
    .replace(/(^|\s)\/\/.*$/gm, '$1');

/** `file:line` of every line of the files' bare code that matches. */
function lineMatches(files: readonly string[], pattern: RegExp): string[] {
  return files.flatMap((file) =>
    bare(file)
      .split('\n')
      .filter((line) => pattern.test(line))
      .map((line) => `${file}: ${line.trim()}`),
  );
}

// Floors ---------------------------------------------------------------------------------------------

/** From the roof down (DESIGN section 2); rooms on one floor do not import each other. */
const FLOORS = [
  ['src/cli'],
  ['src/eval', 'src/train', 'src/prepare', 'src/serve'],
  ['src/sample', 'src/data'],
  ['src/recipe'],
  ['src/model', 'src/diffusion', 'src/text', 'src/vae', 'src/inception'],
  ['src/plan'],
  ['src/backend'],
  ['src/io'],
  ['ffi'],
];
/** The error that every floor throws stands beneath them all. */
const GROUND = 'src/io/failure.ts';
const PLAN = 'src/plan';
const BACKEND = 'src/backend';

const roomOf = (file: string) => FLOORS.flat().find((room) => file.startsWith(`${room}/`));
const floorOf = (room: string) => FLOORS.findIndex((rooms) => rooms.includes(room));

interface Import {
  readonly from: string;
  readonly to: string;
  readonly typeOnly: boolean;
  /** `await import(...)`: runs when it is reached, not when the program starts. */
  readonly lazy: boolean;
}

/** The imports of `text`, a file at `from`: files of ours by their path, packages by their name. */
function importsOf(from: string, text: string): Import[] {
  const named = /\b(?:import|export)\s+(type\s)?[^'"`;()]*?\bfrom\s*['"]([^'"]+)['"]/.source;
  const plain = /\bimport\s*(\()?\s*['"]([^'"]+)['"]/.source;
  return [...text.matchAll(new RegExp(`${named}|${plain}`, 'g'))].map(([, type, from1, call, from2]) => {
    const name = from1 ?? from2 ?? '';
    const to = name.startsWith('.') ? normalize(join(dirname(from), name)) : name;
    return { from, to, typeOnly: type !== undefined, lazy: call !== undefined };
  });
}

/** Why an import breaks the rule of the floors, or null. */
function floorFault({ from, to, typeOnly }: Import): string | null {
  const [above, below] = [roomOf(from), roomOf(to)];
  if (!above || !below || above === below || to === GROUND) return null;
  if (above === BACKEND && below === PLAN && typeOnly) return null; // backends run plans
  if (above === PLAN && below === BACKEND && to !== `${BACKEND}/backend.ts`)
    return `${from} imports a backend: ${to}`;
  return floorOf(above) < floorOf(below) ? null : `${from} imports ${to}, which is not below it`;
}

describe('floors', () => {
  test('a room imports only from floors below it', () => {
    const sources = TYPESCRIPT.filter((file) => roomOf(file));
    const faults = sources.flatMap((file) => importsOf(file, bare(file)).map(floorFault));
    expect(faults.filter((fault) => fault !== null)).toEqual([]);
  });

  test('every source is in a room', () => {
    const homeless = TYPESCRIPT.filter((file) => /^(src|ffi)\//.test(file) && !roomOf(file));
    expect(homeless).toEqual([]);
  });

  test('the check sees what it must', () => {
    const faults = (from: string, text: string) =>
      importsOf(from, text).map(floorFault).filter(Boolean).length;
    expect(faults('src/plan/a.ts', "import { x } from '../model/b.ts';")).toBe(1);
    expect(faults('src/plan/a.ts', "import {\n  type x,\n  y,\n} from '../train/b.ts';")).toBe(1);
    expect(faults('src/plan/a.ts', "const m = await import('../cli/b.ts');")).toBe(1);
    expect(faults('src/plan/a.ts', "export * from '../backend/cpu.ts';")).toBe(1);
    expect(faults('src/train/a.ts', "import '../eval/b.ts';")).toBe(1);
    expect(faults('ffi/a.ts', "import { x } from '../src/io/b.ts';")).toBe(1);
    expect(faults('src/backend/a.ts', "import { x } from '../plan/b.ts';")).toBe(1);
    expect(faults('src/backend/a.ts', "import type { x } from '../plan/b.ts';")).toBe(0);
    expect(faults('ffi/a.ts', "import { Failure } from '../src/io/failure.ts';")).toBe(0);
    expect(faults('src/cli/a.ts', "import { x } from '../../ffi/b.ts';\nimport y from 'bun:ffi';")).toBe(0);
  });
});

// Sizes and names ------------------------------------------------------------------------------------

describe('sizes', () => {
  test('no file over 500 lines', () => {
    const texts = [...CODE, ...FILES.filter((file) => file.endsWith('.md'))];
    const long = texts.filter((file) => lines(file).length > 500);
    expect(long).toEqual([]);
  });

  test('no line over 110 columns', () => {
    const long = CODE.flatMap((file) =>
      lines(file).flatMap((line, index) => ([...line].length > 110 ? [`${file}:${index + 1}`] : [])),
    );
    expect(long).toEqual([]);
  });

  test('what git tracks stays small', () => {
    const bytes = (prefix: string) =>
      FILES.filter((file) => file.startsWith(prefix)).reduce((sum, file) => sum + statSync(file).size, 0);
    expect(bytes('')).toBeLessThan(20 * MIB);
    expect(bytes('weights/')).toBeLessThanOrEqual(8 * MIB);
    expect(bytes('test/goldens/')).toBeLessThanOrEqual(10 * MIB);
  });
});

describe('names and words', () => {
  test("a file's first line is a comment that says what is in it", () => {
    const silent = CODE.filter((file) => {
      const first = lines(file).find((line) => line.trim() !== '' && !line.startsWith('#!')) ?? '';
      return !/^\s*(\/\/|\/\*|#(?!include|pragma|if|define)|""")\s*\S?/.test(first);
    });
    expect(silent).toEqual([]);
  });

  test('no file or folder for things without a place', () => {
    const vague = /(^|[/._-])(utils?|common|helpers?|misc)([/._-]|$)/i;
    expect(FILES.filter((file) => vague.test(file))).toEqual([]);
  });

  test('no escapes from the type checker, nothing put off', () => {
    const escapes = /\bas any\b|@ts-ignore|@ts-nocheck|\bTODO\b|\bFIXME\b/;
    const found = CODE.filter((file) => file !== SELF).flatMap((file) =>
      lines(file).flatMap((line, index) => (escapes.test(line) ? [`${file}:${index + 1}`] : [])),
    );
    expect(found).toEqual([]);
  });

  test('imports carry their extension', () => {
    const faults = TYPESCRIPT.filter((file) => file !== SELF).flatMap((file) =>
      importsOf(file, bare(file)).filter(
        ({ to }) => /^(src|ffi|test)\//.test(to) && !/\.[a-z0-9_]+$/i.test(to),
      ),
    );
    expect(faults).toEqual([]);
  });

  test('the lock file names no registry', () => {
    expect(read('bun.lock')).not.toMatch(/https?:/);
  });
});

// Who may do what ------------------------------------------------------------------------------------

describe('duties', () => {
  const sources = TYPESCRIPT.filter((file) => /^(src|ffi|bench)\//.test(file));

  test('addresses are taken in ffi/memory.ts alone', () => {
    const others = sources.filter((file) => file !== 'ffi/memory.ts');
    expect(lineMatches(others, /(?<![\w.])ptr\(/)).toEqual([]);
  });

  test('foreign symbols are called in ffi/ alone', () => {
    const others = sources.filter((file) => !file.startsWith('ffi/'));
    expect(lineMatches(others, /\.symbols\b/)).toEqual([]);
  });

  test('the program starts without the drawing library', () => {
    // Its import fails where the temporary folder cannot hold it: `--version` must work even there.
    const ways = new Map([['src/cli/main.ts', '']]);
    for (const [file, way] of ways) {
      if (!existsSync(file) || !file.endsWith('.ts')) continue;
      for (const { to, typeOnly, lazy } of importsOf(file, bare(file))) {
        if (!typeOnly && !lazy && !ways.has(to)) ways.set(to, `${way}${file} > `);
      }
    }
    expect(ways.get('@napi-rs/canvas')).toBeUndefined();
    expect(ways.size).toBeGreaterThan(20);
  });

  test('only the command line prints or exits', () => {
    const programs = ['src/data/emoji/pack.ts']; // a step of the build, run by make
    const others = sources.filter((file) => /^(src(?!\/cli)|ffi)\//.test(file) && !programs.includes(file));
    const speaks = /\bconsole\.\w+\(|\bprocess\.exit(Code)?\b|\bprocess\.std(out|err)\.write\(/;
    expect(lineMatches(others, speaks)).toEqual([]);
  });
});

// The README -----------------------------------------------------------------------------------------

describe('README', () => {
  test.skipIf(!existsSync('README.md'))('its tree has a line for every file, and none for nothing', () => {
    expect(treeFaults(read('README.md'), FILES)).toEqual([]);
  });

  test('the check of the tree sees what it must', () => {
    const readme = (tree: string) => `# x\n\n\`\`\`text\nmicrodiff/\n${tree}\n\`\`\`\n`;
    const files = ['Makefile', 'src/a/b.ts', 'src/a/c.ts', 'test/goldens/x.bin'];
    const whole = 'Makefile  build\nsrc/a/b.ts  one\nsrc/a/  rest\ntest/goldens/  numbers';
    expect(treeFaults(readme(whole), files)).toEqual([]);
    expect(treeFaults(readme(whole.replace('src/a/ ', 'src/ ')), files)).toEqual(['no line for src/a/c.ts']);
    expect(treeFaults(readme(`${whole}\nold.ts  gone`), files)).toEqual([
      'a line for old.ts, which is not there',
    ]);
    expect(treeFaults(readme(whole.replace('Makefile  ', 'Makefile ')), files)).toHaveLength(2);
    expect(treeFaults('# x\n', files)).toHaveLength(1);
  });
});
