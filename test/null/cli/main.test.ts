// The program as its users meet it: streams, exit codes, help of every command, signals.

import { describe, expect, test } from 'bun:test';
import { commandHelp } from '../../../src/cli/command.ts';
import { COMMANDS } from '../../../src/cli/commands.ts';
import { script } from '../../../src/cli/completions.ts';
import { recipeReference } from '../../../src/recipe/reference.ts';

const MAIN = `${import.meta.dir}/../../../src/cli/main.ts`;

function run(...args: string[]) {
  const { exitCode, stdout, stderr } = Bun.spawnSync([process.execPath, MAIN, ...args], {
    env: { PATH: '/bin' },
  });
  return { code: exitCode, out: stdout.toString(), err: stderr.toString() };
}

describe('streams and exit codes', () => {
  test('help and version on stdout, without colours, exit 0', () => {
    const help = run('--help');
    expect(help).toMatchObject({ code: 0, err: '' });
    for (const { name, summary } of COMMANDS) expect(help.out).toContain(`${name}    ${summary}`);
    expect(help.out).not.toContain('\u001B');
    expect(run('--version').out).toMatch(
      /^microdiff \d+\.\d+\.\d+ \([0-9a-z+]+, Bun 1\.4\.5, \w+ [\w-]+\)\n$/,
    );
    expect(run('help', 'recipe').out).toBe(recipeReference());
  });

  test('no command: help on stderr, exit 2', () => {
    const { code, out, err } = run();
    expect([code, out]).toEqual([2, '']);
    expect(err).toContain('USAGE microdiff');
  });

  test.each([
    [['complet'], 'error: complet: no such command. Did you mean completions?\n'],
    [['--versoin'], 'error: --versoin: unknown flag. Did you mean --version?\n'],
    [['help', 'recip'], 'error: recip: no such topic. Did you mean recipe?\n'],
    [['completions', 'bash', '--foo'], 'error: --foo: unknown flag of completions.'],
    [['-q', 'completions'], 'error: shell: missing (one of bash, zsh, fish).'],
  ])('%j is one line on stderr and exit 2', (args, message) => {
    const { code, out, err } = run(...args);
    expect([code, out]).toEqual([2, '']);
    expect(err).toStartWith(message);
    expect(err.trimEnd()).not.toContain('\n');
  });

  test('flags may stand before the command', () => {
    expect(run('-q', 'completions', 'bash').out).toBe(script('bash', COMMANDS));
    expect(run('--help', 'completions').out).toBe(run('completions', '--help').out);
  });

  test('a reader that goes away is no error', async () => {
    const { exitCode, stderr } = Bun.spawnSync([
      'bash',
      '-c',
      `"$0" "$1" help recipe | head -1; exit \${PIPESTATUS[0]}`,
      process.execPath,
      MAIN,
    ]);
    expect([exitCode, stderr.toString()]).toEqual([0, '']);
  });
});

describe('help', () => {
  for (const row of COMMANDS) {
    test(row.name, async () => {
      expect(row.examples.length).toBeGreaterThan(0);
      expect(Bun.stripANSI(await commandHelp(row))).toMatchSnapshot();
    });
  }
});

test.each(['bash', 'zsh', 'fish'] as const)('completion of %s lists every command and flag', (shell) => {
  const text = script(shell, COMMANDS);
  for (const { name, flags } of COMMANDS) {
    expect(text).toContain(name);
    for (const flag of Object.keys(flags))
      expect(text).toContain(shell === 'fish' ? `-l ${flag}` : `--${flag}`);
  }
  if (shell === 'bash') expect(Bun.spawnSync(['bash', '-n'], { stdin: Buffer.from(text) }).exitCode).toBe(0);
});
