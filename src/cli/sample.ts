// Command: pictures from prompts, of arguments or of a stream.

import { isInside } from '../diffusion/heun.ts';
import { makeFolder } from '../io/atomic.ts';
import { openTensors } from '../io/open-tensors.ts';
import { type BatchOptions, batches, type Job, jobsOf } from '../sample/batches.ts';
import { type Destination, destinationOf, Names } from '../sample/destination.ts';
import { factsOf, openModel } from '../sample/open-model.ts';
import { isBad } from '../sample/prompts.ts';
import { factorOfVae } from '../sample/published.ts';
import type { Recipe } from '../recipe/schema.ts';
import { levelsOf, Sampler, type StepView } from '../sample/sampler.ts';
import { type Canvas, sizeFault, sizeText, trainedSize } from '../sample/size.ts';
import { command } from './command.ts';
import { openDevice } from './device.ts';
import { watchSignals } from './interrupt.ts';
import { PictureWriter, SHEET_LIMIT } from './pictures.ts';
import { Preview } from './preview.ts';
import { RecordStream } from './record-stream.ts';
import { OldPicture } from './repeat.ts';
import { EXAMPLES, FLAGS } from './sample-flags.ts';
import {
  checkDestination,
  checkParts,
  intervalFor,
  type Items,
  promptsFor,
  type SampleCall,
  seedFor,
  sizeFor,
} from './sample-request.ts';
import { stdout } from './stdout.ts';

export const sample = command({
  name: 'sample',
  summary: 'Draws pictures from prompts: one PNG and one line of JSON each',
  flags: FLAGS,
  args: [{ name: 'prompt', meaning: 'What to draw; without any, prompts come from stdin', many: true }],
  examples: EXAMPLES,
  run: (call) => run(call),
});

async function run(call: SampleCall): Promise<number> {
  const { values, log } = call;
  const picture = OldPicture.read(values.from);
  const old = picture.settings;
  const { items, known } = promptsFor(call, old);
  const destination =
    call.given.has('output') || values.format === 'jsonl' ? destinationOf(values.output) : STREAM;
  checkDestination(values, destination, known);
  const preview = Preview.open(values.preview, destination, call.progress);

  const found = picture.findModel(values.model);
  log.debug(`model ${found.name}: ${found.path}`);
  using file = openTensors(found.path);
  // A model that brings its parts, and that -m names, does not take those of an old picture.
  const named = values.model !== undefined && found.parts ? values : picture.parts(values);
  const given = { clip: named.clip ?? found.parts?.clip, vae: named.vae ?? found.parts?.vae };
  const facts = factsOf(file, given);
  const { recipe, step, whole, parts } = facts;
  picture.warn(log, values.model, { step });
  if (whole) checkParts(call, found.name);
  const canvas = whole || parts.vae !== undefined ? canvasWith(recipe, parts.vae) : null;
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
      size: sizeFor(call, picture.size(found.name), canvas),
      rng: values.rng ?? picture.rng,
    },
    fault: (job) => {
      if (!canvas || !job.size) return undefined;
      const fault = sizeFault(canvas, job.size);
      return fault === undefined ? undefined : `size ${sizeText(job.size)}: ${fault}`;
    },
  };
  const { guidance_interval: interval, steps } = options.defaults;
  if (interval && !levelsOf(recipe, steps).some((sigma) => sigma > 0 && isInside(interval, sigma))) {
    log.warn(`no noise level lies from ${interval[0]} to ${interval[1]}: nothing is guided`);
  }
  const names = destination.kind === 'stream' ? null : new Names(destination, known === undefined);
  const withPictures = destination.kind === 'stream';
  const makeRoom = () => call.progress.clear();
  const records = new RecordStream({ format: values.format, withPictures, makeRoom });
  const writer = new PictureWriter(
    {
      records,
      names,
      scale: call.given.has('scale') ? values.scale : picture.scale,
      trained: canvas && trainedSize(canvas),
      skipExisting: values['skip-existing'],
      onReplaced: (why) => log.warn(why),
      model: { name: found.name, step },
      beside: whole ? {} : filesOf(named),
    },
    values.grid !== undefined,
  );
  if (values['dry-run']) return dryRun(items, options, writer);
  if (destination.kind !== 'stream') makeFolder(destination.folder);

  const backend = await openDevice(values, log);
  const model = openModel(backend, file, found.name, facts, (part, seconds) =>
    log.debug(`${part}: loaded in ${seconds.toFixed(1)} s`),
  );
  const sampler = new Sampler(backend, model, options.size);
  records.begin();
  const code = await drawAll(call, items, options, { sampler, writer, preview }, known);
  records.end();
  const spent = Object.entries(sampler.seconds).map(([on, seconds]) => `${on} ${seconds.toFixed(1)} s`);
  log.debug(`time: ${spent.join(', ')}`);
  if (values.grid !== undefined && (await writer.drawSheet(values.grid))) {
    log.info(`sheet: ${values.grid}`);
    if (writer.pictures > SHEET_LIMIT) log.warn(`the sheet has the first ${SHEET_LIMIT} pictures only`);
  }
  return code;
}

const STREAM: Destination = { kind: 'stream' };

interface Tools {
  readonly sampler: Sampler;
  readonly writer: PictureWriter;
  readonly preview: Preview | null;
}

/** Draws until the prompts end, the reader goes or a signal comes. Returns the exit code. */
async function drawAll(
  { log, progress }: SampleCall,
  items: Items,
  options: BatchOptions,
  { sampler, writer, preview }: Tools,
  known: number | undefined,
): Promise<number> {
  const interrupt = watchSignals(log, 'ending after the pictures in hand');
  const stream = batches(items, options);
  let warned = false;
  const stopped = interrupt.stopped.then(() => ({ done: true, value: undefined }) as const);
  while (!interrupt.stopRequested && !stdout.closed) {
    const next = await Promise.race([stream.next(), stopped]);
    if (next.done) break;
    if ('error' in next.value) {
      writer.error(next.value.index, next.value.error);
      continue;
    }
    const jobs = next.value;
    const other = jobs.find(({ size }) => size);
    if (other && !warned) {
      warned = true;
      const trained = sizeText(sampler.trained);
      log.info(`${sizeText(other.size!)} is not the size of the training, ${trained}: pictures may be worse`);
    }
    const placed = jobs.map((job) => writer.place(job));
    const missing = jobs.filter((_, i) => 'file' in placed[i]!);
    const begin = performance.now();
    const onStep = (view: StepView) => preview?.step(view, missing.length);
    const drawn = await sampler.sample(missing, preview ? { onStep } : {});
    preview?.done(drawn);
    const pictures = drawn.values();
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
  const all = writer.errors + writer.pictures + writer.skipped;
  if (all === 0) log.warn('no prompt came, and nothing was drawn');
  if (writer.errors > 0) {
    log.error(`${writer.errors} of ${all} pictures could not be made`);
    return 1;
  }
  return 0;
}

/** What sizes follow from, before anything is loaded; `vae` is the autoencoder's file, where there is one. */
function canvasWith({ model }: Recipe, vae: string | undefined): Canvas {
  return { model, factor: vae === undefined ? 1 : factorOfVae(vae) };
}

/** The parts that have a file of their own. */
function filesOf({ clip, vae }: Pick<SampleCall['values'], 'clip' | 'vae'>): { clip?: string; vae?: string } {
  return { ...(clip === undefined ? {} : { clip }), ...(vae === undefined ? {} : { vae }) };
}

/** Prints what would be made, one line each. */
async function dryRun(items: Items, options: BatchOptions, writer: PictureWriter): Promise<number> {
  let errors = 0;
  for await (const item of items) {
    const lines = isBad(item)
      ? [item]
      : jobsOf(item, options).map((job) => plannedLine(job, options, writer));
    errors += lines.filter((line) => 'error' in line).length;
    for (const line of lines) stdout.line(JSON.stringify(line));
    if (stdout.closed) break;
  }
  return errors > 0 ? 1 : 0;
}

function plannedLine(whole: Job, options: BatchOptions, writer: PictureWriter): object {
  const fault = options.fault?.(whole);
  if (fault !== undefined) return { index: whole.index, error: fault };
  const { out: _, ...job } = whole;
  const place = writer.place(whole);
  if ('error' in place) return { index: job.index, error: place.error };
  if ('there' in place) return { ...job, file: place.there.file, skipped: true };
  return { ...job, file: place.file };
}
