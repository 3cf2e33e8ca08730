// Command: pictures and captions of the user's to shards that training reads.

import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { encodeRecord } from '../io/jsonl.ts';
import {
  captionColumns,
  CAPTION_FORMS,
  latentColumns,
  needsTower,
  pictureColumns,
  POSTERIORS,
} from '../prepare/encoders.ts';
import { decodersOf } from '../prepare/decoders.ts';
import { CAPTION_MODES, CLEAN_MODES } from '../prepare/item.ts';
import type { Tally } from '../prepare/report.ts';
import { prepareSet } from '../prepare/run.ts';
import { countItems, itemsOf } from '../prepare/sources.ts';
import { bool, choice, int, LARGEST, text } from '../recipe/field.ts';
import { latentDecoder, openAutoencoder, openTextTower } from '../sample/published.ts';
import { pulledPart } from '../sample/pulled.ts';
import { type Call, command } from './command.ts';
import { COMPUTE_FLAGS, openDevice } from './device.ts';
import { flag, SHARED, usage } from './flags.ts';
import { watchSignals } from './interrupt.ts';
import { drawContactSheet, reportLines } from './prepare-report.ts';
import { stdout } from './stdout.ts';
import { version } from './version.ts';

const FLAGS = {
  out: flag(text(undefined, 'Folder of the set'), { alias: 'o', hint: 'OUT' }),
  size: flag(text('256', 'Sides of the middle squares, in pixels: 256 or 256,512'), { hint: 'N,...' }),
  vae: flag(text(undefined, 'Autoencoder: columns latents_N in halves (without: image_N, PNG)'), {
    hint: 'FILE|NAME',
  }),
  posterior: flag(choice('sample', POSTERIORS, 'A latent drawn from its distribution, or the middle of it')),
  clip: flag(text(undefined, 'Text tower: column caption_latents in halves'), { hint: 'FILE|NAME' }),
  'captions-as': flag(
    choice(
      undefined,
      CAPTION_FORMS,
      'States of the text tower, those in 8 bits, token ids for it, or text alone (default: by --clip)',
    ),
  ),
  captions: flag(
    choice(
      'first',
      CAPTION_MODES,
      'Of several captions: the first, one by chance, all (a sample each), joined',
    ),
  ),
  clean: flag(choice('none', CLEAN_MODES, "Captions as they are, or through the reference's clean-up")),
  'image-column': flag(text(undefined, 'Column of a table or set with the pictures (default: usual names)'), {
    hint: 'NAME',
  }),
  'caption-column': flag(
    text(undefined, 'Column, or key of JSON beside a picture, with the captions (default: usual names)'),
    {
      hint: 'NAME',
    },
  ),
  'min-size': flag(int(0, { min: 0, unit: 'pixels' }, 'Leaves out pictures whose shorter edge has less')),
  exif: flag(bool(false, "Turns pictures as EXIF says; the reference's pipeline does not")),
  'keep-duplicates': flag(bool(false, 'Keeps pictures whose bytes came before')),
  'allow-urls': flag(bool(false, 'Downloads pictures that tables name by http and https addresses')),
  shard: flag(text('0/1', "This machine's part of the items, as in 0/8; goes into OUT/0"), { hint: 'I/N' }),
  compression: flag(text(undefined, 'Of the shards: zstd, zstd:7, gz, br (default: none)'), { hint: 'NAME' }),
  hashes: flag(text('sha1', 'Hashes in the index: sha1, sha256, xxh64, ..., or none'), { hint: 'NAME,...' }),
  workers: flag(int(0, { min: 0, max: 256 }, 'Threads that decode; they change nothing (0: one a core)')),
  'batch-size': flag(
    int(
      0,
      { min: 0, max: 1024, unit: 'pictures' },
      'Encoded at a time; on a CPU it changes nothing (0: by their size and the device)',
    ),
  ),
  'shard-size': flag(int(64, { min: 1, max: 4000, unit: 'MiB' }, 'Largest shard')),
  seed: flag(
    int(0, { min: 0, max: LARGEST - 2 ** 40 }, 'Of drawn latents and captions, with the place of an item'),
  ),
  'dry-run': SHARED['dry-run'],
  ...COMPUTE_FLAGS,
};

type PrepareCall = Call<typeof FLAGS>;

/** Captions in one run of the text tower. */
const TEXTS = 8;

export const prepare = command({
  name: 'prepare',
  summary:
    'Makes shards for training out of pictures and captions: squares or latents, texts, tokens or states',
  flags: FLAGS,
  args: [
    {
      name: 'source',
      meaning: 'Folders, CSV, TSV, JSONL, Parquet, tar files (WebDataset), sets of shards',
      required: true,
      many: true,
    },
  ],
  examples: [
    [
      'microdiff prepare photos/ -o set/ --size 256,512 --vae sdxl-vae --clip dfn5b-clip',
      'as the reference stores them',
    ],
    ['microdiff prepare list.parquet -o set/ --vae sdxl-vae --captions-as tokens', 'a twentieth of the disk'],
    ['microdiff prepare photos/ -o set/ --size 64', 'pictures and captions alone'],
    ['microdiff prepare photos/ -o set/ --shard 3/8 ... && microdiff data merge set/', 'on eight machines'],
  ],
  run: (call) => run(call),
});

async function run(call: PrepareCall): Promise<number> {
  const { args, values, log, progress } = call;
  const sizes = numbersOf(values.size);
  const part = partOf(values.shard);
  const columns = { imageColumn: values['image-column'], captionColumn: values['caption-column'] };
  if (values['dry-run']) return dryRun(args, columns);
  if (values.out === undefined) throw usage('--out', 'missing', 'Name the folder of the set: -o set/');
  const form = values['captions-as'] ?? (values.clip === undefined ? 'text' : 'states');
  if (needsTower(form) && values.clip === undefined) {
    throw usage(`--captions-as ${form}`, 'needs a text tower', 'Add --clip, or say tokens or text');
  }
  const folder = part.count > 1 ? join(values.out, String(part.index)) : values.out;
  const { seed, exif, clean, captions } = values;
  const settings = {
    ...{ sizes, minSize: values['min-size'], exif, captions, clean, seed },
    captionKey: values['caption-column'],
    ...{ allowUrls: values['allow-urls'], urlBytes: 2 ** 26, urlSeconds: 30 },
  };
  const batch = values['batch-size'] || undefined;
  const encoding = { sizes, posterior: values.posterior, form, seed, batch };
  const needsDevice = values.vae !== undefined || needsTower(form);
  const backend = needsDevice ? await openDevice(values, log) : null;
  const vae = backend && values.vae !== undefined ? openAutoencoder(backend, pulledPart(values.vae)) : null;
  const picturesBy = backend && vae ? latentColumns(backend, vae, encoding) : pictureColumns(encoding);
  const texts = batch ?? TEXTS;
  const tower = backend && needsTower(form) ? openTextTower(backend, pulledPart(values.clip!), texts) : null;
  const captionsBy = captionColumns(form, tower, texts);
  const interrupt = watchSignals(log, 'ending after the pictures in hand; the same command goes on');
  const hashes = values.hashes === 'none' ? [] : values.hashes.split(',');
  const decoders = decodersOf(values.workers || availableParallelism(), settings);
  const begin = performance.now();
  const all = await countItems(args);
  const total = all === undefined ? {} : { total: Math.ceil((all - part.index) / part.count) };
  let before = -1;
  const { report, finished } = await prepareSet({
    ...{ sources: args, folder, decoders, part, hashes, interrupt, ...columns },
    // A GPU's last bits may depend on how many are encoded at a time.
    fingerprint: {
      ...fingerprintOf(call),
      ...(backend && backend.name !== 'cpu' ? { 'batch-size': values['batch-size'] } : {}),
    },
    keepDuplicates: values['keep-duplicates'],
    largest: Math.max(...sizes),
    compression: values.compression ?? null,
    shardBytes: values['shard-size'] * 2 ** 20,
    pictures: picturesBy,
    captions: captionsBy,
    onItem(done, tally: Tally) {
      if (before < 0) before = done - 1;
      const rate = (done - before) / ((performance.now() - begin) / 1000);
      progress.update({ unit: 'picture', done, ...total, rate, note: `${tally.left} left out` });
    },
  });
  decoders.free();
  progress.finish();
  if (finished) {
    for (const line of reportLines(report, folder)) log.info(line);
    const decoder = vae?.config.out_channels === 3 ? latentDecoder(vae) : null;
    const slow = decoder !== null && backend?.name === 'cpu';
    await drawContactSheet(folder, args, report, { decoder, slow, log });
  }
  picturesBy.free();
  captionsBy.free();
  vae?.free();
  if (!finished) return interrupt.exitCode ?? 1;
  const { items, written, samples, dropped } = report;
  stdout.line(encodeRecord({ folder, items, written, samples, dropped }));
  return 0;
}

function numbersOf(words: string): number[] {
  const sizes = words.split(',').map(Number);
  if (sizes.every((size) => Number.isInteger(size) && size >= 1 && size <= 4096)) return [...new Set(sizes)];
  throw usage(`--size ${words}`, 'is no list of sides from 1 to 4096', 'Write 256, or 256,512');
}

function partOf(words: string): { index: number; count: number } {
  const [, index = '', count = ''] = /^(\d{1,6})\/(\d{1,6})$/.exec(words) ?? [];
  const part = { index: Number(index), count: Number(count) };
  if (index !== '' && part.index < part.count) return part;
  throw usage(`--shard ${words}`, 'is no part of a whole', 'Write 0/8 to 7/8 on eight machines');
}

/** What decides the bytes of the set, and nothing else. */
function fingerprintOf({ args, values }: PrepareCall): Record<string, unknown> {
  const keys = [
    ...(['size', 'vae', 'posterior', 'clip', 'captions-as', 'captions', 'clean', 'image-column'] as const),
    ...(['caption-column', 'min-size', 'exif', 'keep-duplicates', 'shard', 'compression', 'hashes'] as const),
    ...(['shard-size', 'seed', 'allow-urls'] as const),
  ];
  return { version, sources: args, ...Object.fromEntries(keys.map((key) => [key, values[key] ?? null])) };
}

async function dryRun(args: readonly string[], columns: Parameters<typeof itemsOf>[1]): Promise<number> {
  let items = 0;
  let without = 0;
  let addresses = 0;
  for await (const { image } of itemsOf(args, columns)) {
    items += 1;
    if ('none' in image) without += 1;
    if ('url' in image) addresses += 1;
  }
  stdout.line(encodeRecord({ sources: args, items, without_picture: without, behind_addresses: addresses }));
  return 0;
}
