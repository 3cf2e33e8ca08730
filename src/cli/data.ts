// Command: sets of shards: what is in them, whether they are sound, several made one.

import { existsSync, readdirSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { writeWholeFile } from '../io/atomic.ts';
import { EXIT, Failure } from '../io/failure.ts';
import { withCanvas } from '../io/figure/canvas.ts';
import { encodeRecord } from '../io/jsonl.ts';
import { INDEX_NAME } from '../io/mds/index.ts';
import { mergeIndexes } from '../io/mds/merge.ts';
import { JOURNAL_NAME } from '../io/mds/writer.ts';
import { osFailure } from '../io/oserror.ts';
import { inspectShards } from '../prepare/inspect-shards.ts';
import { shardPictures } from '../prepare/shard-pictures.ts';
import { type ShardReport, verifyShards } from '../prepare/verify-shards.ts';
import { int, LARGEST, text } from '../recipe/field.ts';
import { loadLatentDecoder } from '../sample/published.ts';
import { pulledPart } from '../sample/pulled.ts';
import { type Call, command } from './command.ts';
import { inspectionPage } from './data-page.ts';
import { COMPUTE_FLAGS, openDevice } from './device.ts';
import { flag, SHARED, usage } from './flags.ts';
import type { Log } from './log.ts';
import { stdout } from './stdout.ts';

const INSPECT_FLAGS = {
  samples: flag(
    int(10_000, { min: 0, max: LARGEST }, 'Samples that inspect looks at, spread over the set (0 = all)'),
  ),
  sheet: flag(text(undefined, 'Sheet of pictures that inspect draws (PNG)'), { alias: 'o', hint: 'FILE' }),
  pictures: flag(int(24, { min: 1, max: 400 }, 'Pictures on the sheet')),
  vae: flag(text(undefined, 'Autoencoder that turns latents into pictures for the sheet'), {
    hint: 'NAME|FILE',
  }),
  ...COMPUTE_FLAGS,
};
const FLAGS = { json: SHARED.json, ...INSPECT_FLAGS };
type DataCall = Call<typeof FLAGS>;

/** What can be done with a folder. */
const WHAT: Readonly<Record<string, (call: DataCall, dir: string) => Promise<number>>> = {
  inspect,
  verify,
  merge,
};

export const data = command({
  name: 'data',
  summary: 'Checks sets of shards (MDS), shows what is in them, or makes several one',
  flags: FLAGS,
  args: [
    { name: 'what', meaning: 'What to do', required: true, options: Object.keys(WHAT) },
    { name: 'dir', meaning: 'Folder with an index.json; of merge, the folder above several', required: true },
  ],
  examples: [
    [
      'microdiff data inspect latents/ -o sheet.png --vae sdxl-vae',
      'columns in numbers, and pictures of some samples',
    ],
    [
      'microdiff data verify latents/',
      'reads every value, compares every hash; exit code 1 if any is damaged',
    ],
    [
      'microdiff data merge latents/',
      'one index over latents/0, latents/1, ..., in the order of their names',
    ],
  ],
  run(call) {
    const [what, dir] = call.args as [string, string];
    const stray = Object.keys(INSPECT_FLAGS).find((name) => what !== 'inspect' && call.given.has(name));
    if (stray)
      throw usage(
        stray === 'sheet' ? '--sheet (-o)' : `--${stray}`,
        'belongs to data inspect',
        'Leave it out',
      );
    return WHAT[what]!(call, dir);
  },
});

async function inspect({ values, given, log, progress }: DataCall, dir: string): Promise<number> {
  const drawing = ['vae', 'pictures', ...Object.keys(COMPUTE_FLAGS)].find((name) => given.has(name));
  if (drawing && values.sheet === undefined)
    throw usage(`--${drawing}`, 'is for the sheet', 'Add --sheet FILE');
  const report = inspectShards(dir, {
    samples: values.samples,
    onSample: (done, total) => progress.update({ unit: 'sample', done, total }),
  });
  progress.finish();
  const sheet = values.sheet === undefined ? null : await drawSheetOf(values, log, dir, values.sheet);
  if (values.json) stdout.line(encodeRecord({ ...report, ...(sheet ? { sheet } : {}) }));
  else stdout.write(inspectionPage(report, sheet));
  return 0;
}

interface Sheet {
  readonly file: string;
  readonly column: string;
  /** How the column became pictures. */
  readonly how: string;
  readonly pictures: number;
}

async function drawSheetOf(values: DataCall['values'], log: Log, dir: string, file: string): Promise<Sheet> {
  const backend = values.vae === undefined ? null : await openDevice(values, log);
  const decoder = backend && loadLatentDecoder(backend, pulledPart(values.vae!));
  try {
    const found = await shardPictures(dir, values.pictures, decoder);
    if (!found) {
      const why = decoder
        ? `no column of latents with ${decoder.channels} channels`
        : 'no column of pictures or latents';
      throw new Failure({ what: dir, why, fix: 'Leave --sheet out' });
    }
    const { drawSheet } = await withCanvas(() => import('../io/figure/sheet.ts'));
    const { column, how, pictures } = found;
    const title = { title: basename(resolve(dir)), subtitle: `${column}: ${how}` };
    writeWholeFile(file, drawSheet(pictures, title));
    return { file, column, how, pictures: pictures.length };
  } finally {
    decoder?.free();
  }
}

async function verify({ values, log, progress }: DataCall, dir: string): Promise<number> {
  const report = await verifyShards(dir, (done, total) => progress.update({ unit: 'shard', done, total }));
  progress.finish();
  stdout.write(values.json ? `${encodeRecord({ ...report })}\n` : page(report));
  if (report.passed) return 0;
  const { damaged, shards } = report;
  log.error(
    `${dir}: ${damaged[0]!.shard === null ? 'its index' : `${damaged.length} of ${shards} shards`} damaged`,
  );
  return EXIT.failed;
}

function page(report: ShardReport): string {
  const bad = report.damaged.map(({ shard, samples, reason }) => {
    return shard === null ? `damaged  ${reason}` : `damaged  shard ${shard}, ${samples} samples: ${reason}`;
  });
  const counts = (map: ShardReport['hashes']) =>
    Object.entries(map).map(([name, count]) => `${name} of ${count} shards`);
  const lost = report.damaged.reduce((sum, { samples }) => sum + samples, 0);
  const rows: [string, string][] = [
    ['samples', `${report.samples}${lost > 0 ? `, ${lost} of them damaged` : ''}`],
    ['shards', `${report.shards}${bad.length > 0 ? `, ${bad.length} of them damaged` : ''}`],
    ['bytes', String(report.bytes)],
    ['hashes', counts(report.hashes).join(', ') || 'none'],
    ['unchecked', counts(report.unchecked).join(', ')],
    ['result', report.passed ? 'sound' : 'damaged'],
  ];
  const lines = rows.filter(([, text]) => text !== '').map(([name, text]) => `${name.padEnd(12)}${text}`);
  return `${[...bad, ...lines].join('\n')}\n`;
}

async function merge({ values }: DataCall, dir: string): Promise<number> {
  if (existsSync(join(dir, INDEX_NAME))) {
    throw usage(join(dir, INDEX_NAME), 'it is there already', 'Remove it first if it is an old merge');
  }
  const parts = partsOf(dir);
  const { count, shards } = mergeIndexes(dir, parts);
  const record = { folder: dir, parts, samples: count, shards: shards.length };
  const counts = `${count} samples in ${shards.length} shards of ${parts.length} sets`;
  const line = `${join(dir, INDEX_NAME)}: ${counts}`;
  stdout.line(values.json ? encodeRecord(record) : line);
  return 0;
}

/** Folders below one that hold a set, by name; numbers in the order of numbers. */
function partsOf(dir: string): string[] {
  try {
    const all = readdirSync(dir);
    const names = all.filter((name) => existsSync(join(dir, name, INDEX_NAME)));
    const begun = all.find((name) => !names.includes(name) && existsSync(join(dir, name, JOURNAL_NAME)));
    if (begun !== undefined) {
      const fix = 'Run its prepare again, or remove that folder';
      throw new Failure({ what: join(dir, begun), why: 'this part is not finished', fix });
    }
    return names.sort(new Intl.Collator('en', { numeric: true }).compare);
  } catch (error) {
    throw osFailure(error, dir, 'read');
  }
}
