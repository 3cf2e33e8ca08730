// Tar archives: what system tar reads back, and the same bytes for the same files.
import { expect, test } from 'bun:test';
import { TAR_END, tarEntry } from '../../src/io/tar.ts';

const files: [string, Uint8Array][] = [
  ['000000-ä-苹果-0.png', Uint8Array.from({ length: 1000 }, (_, i) => i % 256)],
  ['empty', new Uint8Array(0)],
  [`${'n'.repeat(95)}.json`, Buffer.from('{}\n')],
  ['block', new Uint8Array(1024).fill(7)],
];
const archive = () => Buffer.concat([...files.map(([name, bytes]) => tarEntry(name, bytes)), TAR_END]);

const tar = (...args: string[]) => Bun.spawnSync(['tar', ...args], { stdin: archive() });

test('system tar lists it without a word and gives the files back', () => {
  const listed = tar('--quoting-style=literal', '-tvf', '-');
  expect([listed.exitCode, listed.stderr.toString()]).toEqual([0, '']);
  const lines = listed.stdout.toString().trimEnd().split('\n');
  expect(lines.length).toBe(files.length);
  expect(lines[0]).toMatch(/^-rw-r--r-- 0\/0 +1000 1970-01-01 00:00 000000-ä-苹果-0\.png$/);
  for (const [name, bytes] of files) {
    expect(new Uint8Array(tar('-xOf', '-', name).stdout)).toEqual(new Uint8Array(bytes));
  }
});

test('entries fill whole blocks; a name that does not fit is refused', () => {
  expect(archive().length % 512).toBe(0);
  expect(archive()).toEqual(archive());
  expect(() => tarEntry('n'.repeat(101), new Uint8Array(0))).toThrow('1 to 100 bytes');
  expect(() => tarEntry('', new Uint8Array(0))).toThrow('1 to 100 bytes');
});
