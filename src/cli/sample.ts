// Command: pictures from prompts, of arguments or of a stream.

import { type Interval, isInside } from '../diffusion/heun.ts';
import { SAMPLERS } from '../diffusion/solvers.ts';
import { makeFolder } from '../io/atomic.ts';
import type { ImageSettings } from '../io/parameters.ts';
import { openTensors } from '../io/open-tensors.ts';
import { bool, choice, int, LARGEST, real, reals, text } from '../recipe/field.ts';
import { type BatchOptions, batches, type Job, jobsOf } from '../sample/batches.ts';
import { type Destination, destinationOf, Names } from '../sample/destination.ts';
import { hasRecipe, loadModel, provenanceOf } from '../sample/model-file.ts';
import {
  type BadPrompt,
  isBad,
  isInterval,
  type Prompt,
  promptsOfArguments,
  readColumn,
  readPrompts,
} from '../sample/prompts.ts';
import { loadPublished, publishedRecipe } from '../sample/published.ts';
import { pulledPart } from '../sample/pulled.ts';
import { levelsOf, Sampler } from '../sample/sampler.ts';
import { type Call, command } from './command.ts';
import { COMPUTE_FLAGS, openDevice } from './device.ts';
import { flag, manyFlag, SHARED, usage } from './flags.ts';
import { watchSignals } from './interrupt.ts';
import { PictureWriter, SHEET_LIMIT } from './pictures.ts';
import { OldPicture } from './repeat.ts';
import { stdout } from './stdout.ts';

const FLAGS = {
  model: flag(text(undefined, 'Model: a name, a file of weights or a run folder'), {
    alias: 'm',
    hint: 'NAME|FILE|RUN',
  }),
  clip: flag(text(undefined, 'Text tower of published weights'), { hint: 'FILE|NAME' }),
  vae: flag(text(undefined, 'Autoencoder of published weights'), { hint: 'FILE|NAME' }),
  prompt: manyFlag(text(undefined, 'What to draw'), { alias: 'p', hint: 'TEXT' }),
  'negative-prompt': flag(text('', 'What to steer away from'), { alias: 'n', hint: 'TEXT' }),
  steps: flag(int(undefined, { min: 1, max: 10000 }, 'Steps of the sampler (default: as the recipe says)')),
  'cfg-scale': flag(real(undefined, {}, 'Guidance; 1 = off (default: as the recipe says)')),
  'guidance-interval': flag(
    reals([], {}, 'Guides only while sigma is in this interval; elsewhere a look costs half'),
    { hint: 'LOW,HIGH' },
  ),
  sampler: flag(
    choice(
      undefined,
      SAMPLERS,
      'Solver; heun looks at a picture twice a step, the others once (default: as the recipe says)',
    ),
  ),
  seed: flag(
    int(0, { min: -1, max: LARGEST }, 'Seed of the noise, the same for every prompt (-1 draws one)'),
    {
      alias: 's',
    },
  ),
  'seed-step': flag(int(0, { min: 0, max: 2 ** 32 }, 'Added to the seed for each prompt')),
  count: flag(
    int(1, { min: 1, max: 1_000_000 }, 'Pictures of each prompt, with seeds that follow each other'),
  ),
  'batch-size': flag(int(8, { min: 1, max: 1024 }, 'Pictures made at once; changes none of them')),
  output: flag(text('.', 'Folder, file.png, pattern such as out/%04d.png, or - for stdout'), {
    alias: 'o',
    hint: 'PATH',
  }),
  scale: flag(int(1, { min: 1, max: 64 }, 'Enlarges small pictures: every pixel becomes a square')),
  grid: flag(text(undefined, 'Also draws all pictures on one sheet'), { hint: 'FILE' }),
  format: flag(choice('jsonl', ['jsonl', 'msgpack'], 'Records on stdout; msgpack can carry the pictures')),
  column: flag(text(undefined, 'Prompts are this column of a CSV on stdin, whose first row has the names'), {
    hint: 'NAME',
  }),
  plain: flag(bool(false, 'Prompts of a stream are plain text, also those that begin with {')),
  from: flag(text(undefined, 'Repeats a picture from its PNG or its record (JSON); flags go before'), {
    hint: 'PNG|JSON',
  }),
  'skip-existing': flag(
    bool(false, 'Goes on with a batch: pictures that are there, whole and of the same settings, stay'),
  ),
  'dry-run': SHARED['dry-run'],
  ...COMPUTE_FLAGS,
};

type Values = Call<typeof FLAGS>['values'];
type Items = AsyncIterable<Prompt | BadPrompt> | readonly (Prompt | BadPrompt)[];

export const sample = command({
  name: 'sample',
  summary: 'Draws pictures from prompts: one PNG and one line of JSON each',
  flags: FLAGS,
  args: [{ name: 'prompt', meaning: 'What to draw; without any, prompts come from stdin', many: true }],
  examples: [
    ['microdiff sample "a red apple, fluent 3d style" --scale 8', 'writes a-red-apple-fluent-3d-style-0.png'],
    ['microdiff sample -m runs/mine "a rocket" --count 9 --grid rockets.png', 'nine seeds, and a sheet'],
    ['microdiff sample -o out/ < prompts.txt > made.jsonl', 'one prompt a line, text or JSON'],
    [
      'microdiff sample "a fox" --sampler dpmpp2m --steps 12',
      'twelve looks at the picture; heun takes 2 n - 1',
    ],
    [
      'microdiff sample "a fox" --guidance-interval 0.2,5',
      'no guidance where noise is high or low: often better, and faster',
    ],
    ['microdiff sample "a fox" -o - | display', 'the PNG itself on stdout'],
    [
      'microdiff sample -o out/ --skip-existing < prompts.txt > made.jsonl',
      'after a kill: the whole list again; what was there has "skipped": true',
    ],
    ['microdiff sample -o out/ --column caption < captions.csv', 'one prompt a row of a CSV'],
    ['microdiff sample --from a-fox-0.png --seed 1', 'the same settings, another seed'],
    ['microdiff sample -m microdit-37m "a fox"', 'published weights, after `microdiff pull microdit-37m`'],
    ['microdiff sample -m microdit.pt --clip clip.bin --vae vae.safetensors "a fox"', 'published weights'],
  ],
  run: (call) => run(call),
});

async function run(call: Call<typeof FLAGS>): Promise<number> {
  const { values, log } = call;
  const picture = OldPicture.read(values.from);
  const old = picture.settings;
  const { items, known } = promptsFor(call, old);
  const destination =
    call.given.has('output') || values.format === 'jsonl' ? destinationOf(values.output) : STREAM;
  checkDestination(values, destination, known);

  const found = picture.findModel(values.model);
  log.debug(`model ${found.name}: ${found.path}`);
  using file = openTensors(found.path);
  const own = hasRecipe(file);
  const { recipe, step } = own ? provenanceOf(file) : { recipe: publishedRecipe(file), step: null };
  picture.warn(log, values.model, { step });
  const options: BatchOptions = {
    size: values['batch-size'],
    count: values.count,
    seedStep: values['seed-step'],
    defaults: {
      negative_prompt: call.given.has('negative-prompt')
        ? values['negative-prompt']
        : (old.negativePrompt ?? ''),
      seed: seedFor(call, old),
      steps: values.steps ?? old.steps ?? recipe.sample.steps,
      cfg_scale: values['cfg-scale'] ?? old.cfgScale ?? recipe.sample.cfg_scale,
      sampler: values.sampler ?? picture.sampler(recipe.sample.sampler, log),
      guidance_interval: intervalFor(call, old),
    },
  };
  const { guidance_interval: interval, steps } = options.defaults;
  if (interval && !levelsOf(recipe, steps).some((sigma) => sigma > 0 && isInside(interval, sigma))) {
    log.warn(`no noise level lies from ${interval[0]} to ${interval[1]}: nothing is guided`);
  }
  // A model that brings its parts, and that -m names, does not take those of an old picture.
  const named = values.model !== undefined && found.parts ? values : picture.parts(values);
  const names = destination.kind === 'stream' ? null : new Names(destination, known === undefined);
  const writer = new PictureWriter(
    {
      destination,
      names,
      format: values.format,
      scale: call.given.has('scale') ? values.scale : picture.scale,
      skipExisting: values['skip-existing'],
      onReplaced: (why) => log.warn(why),
      model: { name: found.name, step },
      beside: own ? {} : filesOf(named),
      makeRoom: () => call.progress.clear(),
    },
    values.grid !== undefined,
  );
  if (values['dry-run']) return dryRun(items, options, writer);
  if (destination.kind !== 'stream') makeFolder(destination.folder);

  const backend = await openDevice(values, log);
  const parts = {
    clip: named.clip === undefined ? found.parts?.clip : pulledPart(named.clip),
    vae: named.vae === undefined ? found.parts?.vae : pulledPart(named.vae),
  };
  const model = own ? loadModel(backend, file, found.name) : loadPublished(backend, file, found.name, parts);
  const code = await drawAll(call, items, options, new Sampler(backend, model, options.size), writer, known);
  if (values.grid !== undefined && (await writer.drawSheet(values.grid))) {
    log.info(`sheet: ${values.grid}`);
    if (writer.pictures > SHEET_LIMIT) log.warn(`the sheet has the first ${SHEET_LIMIT} pictures only`);
  }
  return code;
}

const STREAM: Destination = { kind: 'stream' };

/** Draws until the prompts end, the reader goes or a signal comes. Returns the exit code. */
async function drawAll(
  { log, progress }: Call<typeof FLAGS>,
  items: Items,
  options: BatchOptions,
  sampler: Sampler,
  writer: PictureWriter,
  known: number | undefined,
): Promise<number> {
  const interrupt = watchSignals(log, 'ending after the pictures in hand');
  const stream = batches(items, options);
  const stopped = interrupt.stopped.then(() => ({ done: true, value: undefined }) as const);
  while (!interrupt.stopRequested && !stdout.closed) {
    const next = await Promise.race([stream.next(), stopped]);
    if (next.done) break;
    if ('error' in next.value) {
      writer.error(next.value.index, next.value.error);
      continue;
    }
    const jobs = next.value;
    const placed = jobs.map((job) => writer.place(job));
    const missing = jobs.filter((_, i) => 'file' in placed[i]!);
    const begin = performance.now();
    const pictures = (await sampler.sample(missing)).values();
    const seconds = (performance.now() - begin) / 1000 / Math.max(1, missing.length);
    for (const [i, job] of jobs.entries()) {
      const before = writer.truncated;
      const place = placed[i]!;
      if ('error' in place) writer.error(job.index, place.error);
      else if ('there' in place) writer.skip(place.there);
      else writer.write(job, place.file, pictures.next().value!, seconds);
      if (before === 0 && writer.truncated > 0) {
        log.warn(`prompt ${job.index} has more words than the model reads; what is beyond is left out`);
      }
    }
    // One batch is too short for a line of progress.
    if (known !== undefined && known > options.size) {
      progress.update({
        unit: 'picture',
        done: writer.pictures + writer.skipped + writer.errors,
        total: known,
        rate: missing.length === 0 ? undefined : 1 / seconds,
      });
    }
  }
  progress.finish();
  if (interrupt.exitCode !== undefined) return interrupt.exitCode;
  if (stdout.closed) return 0; // the reader has what it wanted
  if (writer.skipped > 0) log.info(`${writer.skipped} pictures were there already`);
  if (writer.errors > 0) {
    const all = writer.errors + writer.pictures + writer.skipped;
    log.error(`${writer.errors} of ${all} pictures could not be made`);
    return 1;
  }
  return 0;
}

/** The prompts, and how many pictures they make where that is known beforehand. */
function promptsFor(call: Call<typeof FLAGS>, old: Partial<ImageSettings>): { items: Items; known?: number } {
  const { values, args } = call;
  const given = [...values.prompt, ...args];
  const texts = given.length === 0 && old.prompt !== undefined ? [old.prompt] : given;
  const fromStdin = texts.length === 0 || (texts.length === 1 && texts[0] === '-');
  if (!fromStdin) {
    if (values.column !== undefined) {
      throw usage('--column', 'reads a CSV from stdin, but prompts are given as arguments', 'Leave one out');
    }
    const items = promptsOfArguments(texts);
    return { items, known: items.length * values.count };
  }
  if (process.stdin.isTTY && texts.length === 0) {
    throw usage('sample', 'there is no prompt', 'Write microdiff sample "a red apple", or pipe prompts in');
  }
  if (values.column !== undefined) return { items: readColumn(Bun.stdin.stream(), values.column) };
  return { items: readPrompts(Bun.stdin.stream(), values.plain) };
}

/** Refuses what cannot go where it is to go, before anything is made. */
function checkDestination(values: Values, to: Destination, known: number | undefined): void {
  const one = 'A folder (-o out/) or a pattern (-o out/%04d.png) takes any number';
  if (to.kind === 'file' && known !== undefined && known > 1) {
    throw usage(`-o ${values.output}`, `${known} pictures do not fit in one file`, one);
  }
  if (values['skip-existing'] && values.grid !== undefined) {
    throw usage(
      '--skip-existing',
      'the sheet (--grid) would lack the pictures that are there',
      'Leave one out',
    );
  }
  if (to.kind !== 'stream') return;
  if (values['skip-existing']) {
    throw usage('--skip-existing', 'a stream on stdout has no files to look for', 'Name a folder with -o');
  }
  if (process.stdout.isTTY) {
    throw usage('stdout', 'pictures are not for a terminal', 'Redirect it, or give a file with -o');
  }
  if (values.format === 'jsonl' && known !== 1) {
    const why =
      known === undefined ? 'a stream of prompts makes more than one PNG' : `${known} PNGs in one stream`;
    throw usage('-o -', why, 'Say --format msgpack, which keeps pictures apart');
  }
}

/** The parts that have a file of their own. */
function filesOf({ clip, vae }: Pick<Values, 'clip' | 'vae'>): { clip?: string; vae?: string } {
  return { ...(clip === undefined ? {} : { clip }), ...(vae === undefined ? {} : { vae }) };
}

function intervalFor({ given, values }: Call<typeof FLAGS>, old: Partial<ImageSettings>): Interval | null {
  if (!given.has('guidance-interval')) {
    const before = old.more?.guidance_interval;
    return isInterval(before) ? before : null;
  }
  const interval = values['guidance-interval'];
  if (isInterval(interval)) return interval;
  throw usage(
    '--guidance-interval',
    `expected two noise levels in order, got ${interval.join(',')}`,
    'Write 0.2,5',
  );
}

function seedFor({ given, values, log }: Call<typeof FLAGS>, old: Partial<ImageSettings>): number {
  const seed = given.has('seed') ? values.seed : (old.seed ?? values.seed);
  if (seed >= 0) return seed;
  const [high, low] = crypto.getRandomValues(new Uint32Array(2));
  const drawn = (high! % 2 ** 21) * 2 ** 32 + low!;
  log.info(`seed ${drawn}`);
  return drawn;
}

/** Prints what would be made, one line each. */
async function dryRun(items: Items, options: BatchOptions, writer: PictureWriter): Promise<number> {
  let errors = 0;
  for await (const item of items) {
    if (isBad(item)) errors++;
    const lines = isBad(item) ? [item] : jobsOf(item, options).map((job) => plannedLine(job, writer));
    for (const line of lines) stdout.line(JSON.stringify(line));
    if (stdout.closed) break;
  }
  return errors > 0 ? 1 : 0;
}

function plannedLine(whole: Job, writer: PictureWriter): object {
  const { out: _, ...job } = whole;
  const place = writer.place(whole);
  if ('error' in place) return { index: job.index, error: place.error };
  if ('there' in place) return { ...job, file: place.there.file, skipped: true };
  return { ...job, file: place.file };
}
