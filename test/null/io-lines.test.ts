// Lines in and out, with real pipes: closed by the reader, slow, non-blocking, full device.

import { expect, test } from 'bun:test';
import { closeSync, openSync } from 'node:fs';
import { Failure } from '../../src/io/failure.ts';
import { type Line, readLines, Writer } from '../../src/io/lines.ts';

const CHILD = `${import.meta.dir}/io-children/writer.ts`;

async function pipeline(command: string) {
  const child = Bun.spawn(['bash', '-c', `set -o pipefail; ${command}`], {
    env: { ...process.env, BUN: process.execPath, CHILD },
    stdout: 'pipe',
    stderr: 'pipe',
  });
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { out, err: err.trim(), code };
}

async function collect(chunks: (string | Uint8Array)[], maxBytes?: number): Promise<Line[]> {
  const bytes = chunks.map((chunk) => (typeof chunk === 'string' ? new TextEncoder().encode(chunk) : chunk));
  return Array.fromAsync(readLines(bytes, maxBytes ? { maxBytes } : {}));
}

const texts = (lines: Line[]) => lines.map((line) => ('text' in line ? line.text : `error: ${line.error}`));

test('a reader that leaves ends the writer quietly', async () => {
  const { out, err, code } = await pipeline('"$BUN" "$CHILD" 1000000 | head -n 2 | cut -c1-3');
  expect(out).toBe('0 x\n1 x\n');
  expect(err).toBe('closed');
  expect(code).toBe(0);
});

test('a slow reader of a non-blocking pipe gets every byte', async () => {
  const { out, err, code } = await pipeline('"$BUN" "$CHILD" 20000 nonblock | (sleep 0.3; sha1sum; )');
  const expected = new Bun.CryptoHasher('sha1');
  for (let i = 0; i < 20000; i++) expected.update(`${i} ${'x'.repeat(100)}\n`);
  expect(out.slice(0, 40)).toBe(expected.digest('hex'));
  expect(err).toBe('wrote 20000');
  expect(code).toBe(0);
});

test('a full device is a Failure that names it', () => {
  const fd = openSync('/dev/full', 'w');
  try {
    expect(() => new Writer(fd, 'out.jsonl').line('{}')).toThrow(Failure);
    expect(() => new Writer(fd, 'out.jsonl').line('{}')).toThrow('out.jsonl: cannot write: the disk is full');
  } finally {
    closeSync(fd);
  }
});

test('line ends, byte order mark, missing last newline, blank lines', async () => {
  expect(texts(await collect(['\ufeffred apple\r\n\r\n\nblue\rcar\nlast']))).toEqual([
    'red apple',
    '',
    '',
    'blue\rcar',
    'last',
  ]);
  expect(await collect([])).toEqual([]);
  expect(await collect(['\n'])).toEqual([{ index: 0, text: '' }]);
  expect(texts(await collect(['a\n', '\ufeffb\n']))).toEqual(['a', '\ufeffb']);
  expect(texts(await collect(['\ufeff']))).toEqual(['']);
});

test('a stream cut anywhere gives the same lines', async () => {
  const whole = new TextEncoder().encode('\ufeffäpfel 🍎\r\n日本語\nlong \u0000 line\r\n');
  const expected = await collect([whole]);
  for (let a = 0; a <= whole.length; a++) {
    for (let b = a; b <= whole.length; b += 3) {
      const got = await collect([whole.slice(0, a), whole.slice(a, b), whole.slice(b)]);
      expect(got).toEqual(expected);
    }
  }
});

test('a chunk buffer that is used again does no harm', async () => {
  function* reused() {
    const buffer = new Uint8Array(4);
    for (const text of ['abcd', 'efgh', 'ij\nk']) yield new TextEncoder().encodeInto(text, buffer) && buffer;
  }
  expect(texts(await Array.fromAsync(readLines(reused())))).toEqual(['abcdefghij', 'k']);
});

test('lines beyond 64 KiB arrive whole, hostile ones as errors', async () => {
  const long = 'y'.repeat(300_000);
  const child = Bun.spawn(['cat'], { stdin: new TextEncoder().encode(`${long}\nnext`), stdout: 'pipe' });
  expect(texts(await Array.fromAsync(readLines(child.stdout)))).toEqual([long, 'next']);
  const endless = Array.from({ length: 50 }, () => 'z'.repeat(1000));
  expect(texts(await collect([...endless, '\nshort'], 4096))).toEqual([
    'error: the line is longer than 4096 bytes',
    'short',
  ]);
});

test('a line that is not UTF-8 is an error in its place', async () => {
  const lines = await collect([
    'good\n',
    Uint8Array.of(0x61, 0xff, 0x62, 10),
    Uint8Array.of(0xc3),
    '\nalso good',
  ]);
  expect(texts(lines)).toEqual([
    'good',
    'error: the line is not UTF-8',
    'error: the line is not UTF-8',
    'also good',
  ]);
  expect(lines.map((line) => line.index)).toEqual([0, 1, 2, 3]);
});
