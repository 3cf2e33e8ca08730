// What -o means, and names of pictures: readable, never twice, never outside of the folder.
import { describe, expect, test } from 'bun:test';
import { tmpdir } from 'node:os';
import type { Job } from '../../../src/sample/batches.ts';
import { type Destination, destinationOf, Names } from '../../../src/sample/destination.ts';

const job = (prompt: string, given: Partial<Job> = {}): Job => ({
  index: 0,
  prompt,
  negative_prompt: '',
  seed: 7,
  steps: 1,
  cfg_scale: 1,
  sampler: 'heun',
  guidance_interval: null,
  out: null,
  ...given,
});
type Files = Exclude<Destination, { kind: 'stream' }>;
const namer = (output: string, numbered = false) => {
  const names = new Names(destinationOf(output) as Files, numbered);
  return (prompt: string, given?: Partial<Job>) => {
    const place = names.place(job(prompt, given));
    return 'path' in place ? place.path : place.error;
  };
};

test('a folder, a pattern, a file, standard output', () => {
  expect(destinationOf('-')).toEqual({ kind: 'stream' });
  expect(destinationOf('out')).toEqual({ kind: 'folder', folder: 'out' });
  expect(destinationOf('a.png/')).toEqual({ kind: 'folder', folder: 'a.png/' });
  expect(destinationOf(tmpdir())).toEqual({ kind: 'folder', folder: tmpdir() });
  expect(destinationOf('x/apple.PNG')).toEqual({ kind: 'file', folder: 'x', name: 'apple.PNG' });
  expect(destinationOf('x/a-%04d.png')).toEqual({ kind: 'pattern', folder: 'x', name: 'a-%04d.png' });
  expect(destinationOf('100%d/a.png')).toEqual({ kind: 'file', folder: '100%d', name: 'a.png' });
});

describe('names', () => {
  test('say prompt and seed; in a stream they begin with the number', () => {
    expect(namer('out')('A red apple, fluent 3d style!')).toBe('out/a-red-apple-fluent-3d-style-7.png');
    expect(namer('out', true)('a fox', { index: 12 })).toBe('out/000012-a-fox-7.png');
    expect(namer('.')('ein Äpfelchen 苹果')).toBe('ein-äpfelchen-苹果-7.png');
    expect(namer('out/%03d.png')('a fox', { index: 12 })).toBe('out/012.png');
    expect(namer('out/x%d.png')('a fox', { index: 12 })).toBe('out/x12.png');
  });

  test('of hostile prompts stay in the folder and are short enough for any disk', () => {
    const name = namer('out');
    expect(name('../../etc/passwd')).toBe('out/etc-passwd-7.png');
    expect(name('/')).toBe('out/7.png');
    expect(name('\0\n‮..')).toBe('out/7-2.png');
    expect(name('-rf *')).toBe('out/rf-7.png');
    for (const long of ['a'.repeat(5000), '苹'.repeat(5000), 'ab '.repeat(5000)]) {
      expect(Buffer.byteLength(name(long))).toBeLessThan(110);
    }
  });

  test('are never given twice', () => {
    const name = namer('out');
    expect([name('a fox'), name('A fox!'), name('a fox')]).toEqual([
      'out/a-fox-7.png',
      'out/a-fox-7-2.png',
      'out/a-fox-7-3.png',
    ]);
    expect(name('x', { out: 'sub/b.png' })).toBe('out/sub/b.png');
    expect(name('x', { out: './sub//b.png' })).toContain('is the name of an earlier picture');
    expect(name('b', { out: 'a-fox-7.png' })).toContain('is the name of an earlier picture');
    const one = namer('x/one.png');
    expect([one('a'), one('b')]).toEqual([
      'x/one.png',
      '-o names one file, one.png, which an earlier picture has',
    ]);
  });
});
