// `bench data`: the training stream over shards beside a plain read of them.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  benchData,
  columnsOf,
  type DataBench,
  type DataBenchOptions,
  STAGE_1,
  writeRandomSet,
} from '../data/stream/bench.ts';
import { requireFreeBytes } from '../io/atomic.ts';
import { encodeRecord } from '../io/jsonl.ts';
import type { Log } from './log.ts';
import { stdout } from './stdout.ts';

/** Bytes of the set that is made where none is given: several times the caches of a processor. */
const MADE_BYTES = 2e9;

/** Measures the set in `folder`, or one that is made for it and removed, and prints the figures. */
export async function runDataBench(
  folder: string | undefined,
  options: Omit<DataBenchOptions, 'path' | 'columns'>,
  json: boolean,
  log: Log,
): Promise<void> {
  const result = folder === undefined ? await onMadeSet(options, log) : await onSet(folder, options, log);
  if (json) stdout.line(encodeRecord({ ...result }));
  else stdout.write(page(result));
}

function onSet(path: string, options: Omit<DataBenchOptions, 'path' | 'columns'>, log: Log) {
  log.info(`data ${path}: ${options.repeats} repeats after warming up`);
  return benchData({ ...options, path, columns: columnsOf(path) });
}

async function onMadeSet(options: Omit<DataBenchOptions, 'path' | 'columns'>, log: Log) {
  const folder = mkdtempSync(join(tmpdir(), 'microdiff-bench-'));
  try {
    requireFreeBytes(folder, MADE_BYTES * 1.1, 'a set of shards to measure');
    log.info(`data: writing shards of stage 1, ${MADE_BYTES / 1e9} GB, into ${folder}`);
    writeRandomSet(join(folder, 'set'), STAGE_1, MADE_BYTES);
    return await onSet(join(folder, 'set'), options, log);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function page(result: DataBench): string {
  const rows = [
    ['images/s', result.images_per_s.toFixed(0)],
    ['stream', `${result.stream_gb_per_s.toFixed(2)} GB/s, shuffled, into batches of ${result.batch}`],
    ...(result.ratio === null || result.sequential_gb_per_s === null
      ? []
      : [
          [
            'plain read',
            `${result.sequential_gb_per_s.toFixed(2)} GB/s, the same shards one after the other`,
          ],
          ['ratio', result.ratio.toFixed(2)],
        ]),
    ['set', `${result.images} images, windows of ${result.window} shards`],
    ['threads', `${result.workers} of ${result.cores} cores`],
    ['memory', `${(result.bytes_peak / 2 ** 20).toFixed(0)} MiB, mapped files of the window not counted`],
  ];
  return rows.map(([name, value]) => `${name!.padEnd(16)}${value}\n`).join('');
}
