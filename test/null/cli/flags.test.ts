// The strict pass over raw arguments: what it reads and what it refuses.

import { describe, expect, test } from 'bun:test';
import { COMMON, type Flags, flag, manyFlag, parseFlags, SHARED } from '../../../src/cli/flags.ts';
import { Failure } from '../../../src/io/failure.ts';
import { bool, choice, int, real, text } from '../../../src/recipe/field.ts';

const flags = {
  steps: flag(int(30, { min: 1 }, 'Steps')),
  'cfg-scale': flag(real(5, {}, 'Guidance')),
  out: flag(text(undefined, 'Folder'), { alias: 'o', hint: 'DIR' }),
  format: flag(choice('jsonl', ['jsonl', 'msgpack'], 'Format')),
  set: manyFlag(text(undefined, 'Key'), { hint: 'KEY=VALUE' }),
  plain: flag(bool(false, 'Plain')),
  ...SHARED,
  ...COMMON,
} satisfies Flags;
const prompts = [{ name: 'prompt', meaning: 'Prompts', many: true }];

const parse = (...argv: string[]) => parseFlags('sample', flags, prompts, argv);

function refuses(...argv: string[]): string {
  try {
    parse(...argv);
  } catch (error) {
    expect(error).toBeInstanceOf(Failure);
    expect((error as Failure).code).toBe(2);
    return (error as Failure).message;
  }
  throw new Error(`${argv.join(' ')} was let through`);
}

describe('reads', () => {
  test('defaults, and which flags were given', () => {
    const { values, given, args } = parse('--steps', '30');
    expect(values).toMatchObject({
      steps: 30,
      'cfg-scale': 5,
      format: 'jsonl',
      set: [],
      plain: false,
      quiet: false,
    });
    expect(values.out).toBeUndefined();
    expect([...given]).toEqual(['steps']);
    expect(args).toEqual([]);
  });

  test('values behind a space, behind =, and of short flags', () => {
    expect(parse('--steps=3', '-o', 'a b', '--format', 'msgpack', '-q', '-v').values).toMatchObject({
      steps: 3,
      out: 'a b',
      format: 'msgpack',
      quiet: true,
      verbose: true,
    });
    expect(parse('-o=x=y', '--plain=false').values).toMatchObject({ out: 'x=y', plain: false });
  });

  test('negative numbers are values, and arguments', () => {
    expect(parse('--cfg-scale', '-1.5').values['cfg-scale']).toBe(-1.5);
    expect(parse('--cfg-scale=-1e1', '-2').args).toEqual(['-2']);
  });

  test('a dash alone is a value or an argument; -- ends the flags', () => {
    expect(parse('-o', '-', '-').values.out).toBe('-');
    expect(parse('a', '--', '--steps', '-x', '--').args).toEqual(['a', '--steps', '-x', '--']);
  });

  test('flags that may be repeated', () => {
    expect(parse('--set', 'a.b=1', '--set=c=d e').values.set).toEqual(['a.b=1', 'c=d e']);
  });
});

describe('refuses', () => {
  test.each([
    [['--stepz', '5'], '--stepz: unknown flag of sample. Did you mean --steps?'],
    [['--zzzzzzz'], '--zzzzzzz: unknown flag of sample. See microdiff sample --help'],
    [['-x'], '-x: unknown flag of sample. See microdiff sample --help'],
    [['-qv'], '-qv: unknown flag'],
    [['--toString'], '--toString: unknown flag'],
    [['--steps'], '--steps: needs a value. Write --steps VALUE'],
    [['--steps', '--plain'], '--steps: needs a value, but --plain follows'],
    [['-o', '--', 'a'], '--out: needs a value, but -- follows. Write --out DIR, or --out=VALUE'],
    [['--steps', 'ten'], '--steps: expected a whole number from 1, got "ten"'],
    [['--steps', '0'], '--steps: expected a whole number from 1, got "0"'],
    [['--steps', '1.5'], '--steps: expected a whole number from 1, got "1.5"'],
    [['--steps='], '--steps: expected a whole number from 1, got ""'],
    [['--cfg-scale', 'NaN'], '--cfg-scale: expected a number, got "NaN"'],
    [['--format', 'xml'], '--format: expected one of jsonl, msgpack, got "xml"'],
    [['--plain=maybe'], '--plain: expected true or false, got "maybe"'],
    [['--steps', '1', '--steps=2'], '--steps: given more than once. Give it once'],
    [['-q', '--quiet'], '--quiet: given more than once'],
  ])('%j', (argv, message) => {
    expect(refuses(...argv)).toContain(message);
  });

  test('arguments that are missing, too many or not among the options', () => {
    const shell = [{ name: 'shell', meaning: 'Shell', required: true, options: ['bash', 'zsh'] }];
    const run = (...argv: string[]) => parseFlags('completions', COMMON, shell, argv);
    expect(() => run()).toThrow('shell: missing (one of bash, zsh)');
    expect(() => run('bsh')).toThrow('bsh: not a shell of completions. Did you mean bash?');
    expect(() => run('bash', 'zsh')).toThrow('zsh: completions takes one argument');
    expect(() => parseFlags('doctor', COMMON, [], ['x'])).toThrow('x: doctor takes no argument');
  });
});
