// Metrics: each step once after any number of kills, torn ends, numbers that JSON lacks, a full disk.

import { afterAll, expect, test } from 'bun:test';
import { appendFileSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Failure } from '../../src/io/failure.ts';
import { decodeNumber, decodeRecord, encodeRecord, MetricsLog, readRecords } from '../../src/io/jsonl.ts';

const folder = mkdtempSync(join(tmpdir(), 'microdiff-jsonl-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const steps = (path: string) => readRecords(path).map((record) => record.step);

test('numbers that JSON lacks come back', () => {
  const line = encodeRecord({ a: Number.NaN, b: [Number.POSITIVE_INFINITY], c: { d: -Infinity }, e: 0.1 });
  expect(line).toBe('{"a":"NaN","b":["Infinity"],"c":{"d":"-Infinity"},"e":0.1}');
  const record = decodeRecord(line)!;
  expect(decodeNumber(record.a)).toBeNaN();
  expect(decodeNumber('-Infinity')).toBe(-Infinity);
  expect(decodeNumber(record.e)).toBe(0.1);
  expect(decodeNumber('1')).toBeUndefined();
  for (const bad of ['', '[]', '3', 'null', '{"a":', '"x"']) expect(decodeRecord(bad)).toBeUndefined();
});

test('after a resume each step stands once', () => {
  const path = join(folder, 'resume.jsonl');
  {
    using log = MetricsLog.open(path, 0);
    log.append({ event: 'start' });
    for (let step = 1; step <= 7; step++) log.append({ step, loss: 1 / step });
    log.sync();
  }
  appendFileSync(path, '{"step":8,"lo');
  {
    using log = MetricsLog.open(path, 4);
    for (let step = 5; step <= 8; step++) log.append({ step });
  }
  expect(steps(path)).toEqual([undefined, 1, 2, 3, 4, 5, 6, 7, 8]);
  MetricsLog.open(path, 100).close();
  expect(steps(path).length).toBe(9);
});

test('lines longer than what is read at a time, and one without end', () => {
  const path = join(folder, 'long.jsonl');
  const lines = [1, 2, 3].map((step) => `${encodeRecord({ step, text: 'é'.repeat(350_000 * step) })}\n`);
  writeFileSync(path, lines.join(''));
  MetricsLog.open(path, 2).close();
  expect(readFileSync(path, 'utf8')).toBe(lines.slice(0, 2).join(''));
  truncateSync(path, 2 ** 33);
  expect(() => steps(path)).toThrow(/long.jsonl: a line is longer than/);
});

test('a file torn at any byte keeps its whole lines', () => {
  const path = join(folder, 'torn.jsonl');
  const whole = '{"step":1,"t":"é"}\n{"step":2}\n{"step":3}\n';
  const bytes = new TextEncoder().encode(whole);
  for (let length = 0; length <= bytes.length; length++) {
    writeFileSync(path, bytes.subarray(0, length));
    const lines = bytes.subarray(0, length).filter((byte) => byte === 10).length;
    expect(steps(path)).toEqual([1, 2, 3].slice(0, lines));
    MetricsLog.open(path, 9).close();
    expect(readFileSync(path, 'utf8')).toBe(
      whole
        .split('\n')
        .slice(0, lines)
        .map((line) => `${line}\n`)
        .join(''),
    );
  }
});

test('zeros at the end, as a power cut leaves them, are cut off', () => {
  const path = join(folder, 'zeros.jsonl');
  writeFileSync(path, `{"step":1}\n${'\0'.repeat(100)}\n`);
  MetricsLog.open(path, 9).close();
  expect(readFileSync(path, 'utf8')).toBe('{"step":1}\n');
});

test('damage in the middle names the line', () => {
  const path = join(folder, 'middle.jsonl');
  writeFileSync(path, '{"step":1}\nnonsense\n{"step":2}\n');
  expect(() => readRecords(path)).toThrow(`${path}: line 2 is not a JSON record. Mend or remove that line`);
  expect(() => MetricsLog.open(path, 1)).toThrow(Failure);
  expect(() => readRecords(join(folder, 'absent'))).toThrow('no such file');
  expect(() => MetricsLog.open(folder, 0)).toThrow(Failure);
});
