// Log, live line and colours: what goes to stderr, and when.

import { describe, expect, test } from 'bun:test';
import { createLog } from '../../../src/cli/log.ts';
import { duration, Progress } from '../../../src/cli/progress.ts';
import { hasColor, hasLiveLine } from '../../../src/cli/terminal.ts';

function recorder() {
  const lines: string[] = [];
  return { lines, write: (text: string) => void lines.push(text) };
}

describe('log', () => {
  test('levels: quiet has warnings and errors, verbose has details', () => {
    const all = (options: object) => {
      const { lines, write } = recorder();
      const log = createLog({ write, ...options });
      log.error('e');
      log.warn('w');
      log.info('i %d', 3);
      log.debug('d');
      return lines;
    };
    expect(all({})).toEqual(['error: e\n', 'warning: w\n', 'i 3\n']);
    expect(all({ quiet: true })).toEqual(['error: e\n', 'warning: w\n']);
    expect(all({ verbose: true, color: true })).toEqual([
      '\u001B[31merror\u001B[39m: e\n',
      '\u001B[33mwarning\u001B[39m: w\n',
      'i 3\n',
      '\u001B[90md\u001B[39m\n',
    ]);
  });

  test('the live line makes room for a line of the log', () => {
    const { lines, write } = recorder();
    const progress = new Progress({ write, live: true, now: () => 0 });
    progress.update({ unit: 'step', done: 1, total: 2 });
    createLog({ write, progress }).info('saved');
    expect(lines).toEqual(['\r\u001B[Kstep 1/2', '\r\u001B[K', 'saved\n']);
  });
});

describe('progress', () => {
  test('a live line is drawn ten times a second, and kept at the end', () => {
    const { lines, write } = recorder();
    let now = 0;
    const progress = new Progress({ write, live: true, now: () => now, columns: () => 60 });
    for (let done = 0; done <= 100; done++, now += 10) {
      progress.update({ unit: 'step', done, total: 100, rate: 147.23, loss: 0.08714 });
    }
    progress.finish();
    expect(lines.length).toBe(12);
    expect(lines[1]).toBe('\r\u001B[Kstep 10/100  147 images/s  loss 0.0871  1s left');
    expect(lines.at(-2)).toBe('\r\u001B[Kstep 100/100  147 images/s  loss 0.0871');
    expect(lines.at(-1)).toBe('\n');
  });

  test('it never wraps', () => {
    const { lines, write } = recorder();
    const progress = new Progress({ write, live: true, now: () => 0, columns: () => 20 });
    progress.update({ unit: 'step', done: 1, total: 2, rate: 1, note: 'x'.repeat(50) });
    expect(lines[0]!.length).toBe('\r\u001B[K'.length + 19);
  });

  test('elsewhere plain lines now and then, the last one always; none when quiet', () => {
    const { lines, write } = recorder();
    let now = 0;
    const plain = new Progress({ write, live: false, now: () => now });
    const quiet = new Progress({ write, live: true, quiet: true, now: () => now });
    for (let done = 0; done <= 11; done++, now += 1000) {
      for (const progress of [plain, quiet]) progress.update({ unit: 'image', done, total: 11 });
    }
    expect(lines).toEqual([
      'image 0/11\n',
      'image 5/11  6s left\n',
      'image 10/11  1s left\n',
      'image 11/11\n',
    ]);
  });

  test('a stream has no total', () => {
    const { lines, write } = recorder();
    let now = 0;
    const progress = new Progress({ write, live: false, now: () => now });
    for (let done = 1; done <= 2; done++, now += 6000) progress.update({ unit: 'image', done });
    expect(lines).toEqual(['image 1\n', 'image 2\n']);
  });

  test('durations', () => {
    expect([9.4, 130, 3599.4, 11100].map(duration)).toEqual(['9s', '2m10s', '59m59s', '3h05m']);
  });
});

test('colours and live lines', () => {
  expect(hasColor({}, true)).toBe(true);
  expect(hasColor({}, false)).toBe(false);
  expect(hasColor({ FORCE_COLOR: '1' }, false)).toBe(true);
  expect(hasColor({ FORCE_COLOR: '0' }, false)).toBe(false);
  expect(hasColor({ FORCE_COLOR: '1', NO_COLOR: '1' }, true)).toBe(false);
  expect(hasColor({ FORCE_COLOR: '1' }, true, true)).toBe(false);
  expect(hasColor({ TERM: 'dumb' }, true)).toBe(false);
  expect(hasLiveLine({ TERM: 'dumb' }, true)).toBe(false);
  expect(hasLiveLine({}, true)).toBe(true);
});
