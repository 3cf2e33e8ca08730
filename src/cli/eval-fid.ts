// eval fid: how far the features of one set of images are from those of another.
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { openLapack } from '../../ffi/lapack.ts';
import { sha256Of } from '../eval/extractors.ts';
import { checkOrigins, compareSides, type FidResult, type Side } from '../eval/fid.ts';
import { filesOf, openImageSet } from '../eval/image-sets.ts';
import { readPromptList } from '../eval/prompt-lists.ts';
import { drawMissing } from '../eval/sampled-folder.ts';
import { encodeRecord } from '../io/jsonl.ts';
import { openTensors } from '../io/open-tensors.ts';
import { findModel } from '../sample/find-model.ts';
import { factsOf, openModel } from '../sample/open-model.ts';
import { freeWeights } from '../sample/weights.ts';
import { openDevice } from './device.ts';
import type { EvalCall } from './eval-flags.ts';
import { type Kind, kindOf, Measuring } from './eval-sets.ts';
import { usage } from './flags.ts';
import { watchSignals } from './interrupt.ts';
import { stdout } from './stdout.ts';

/** As torch-fidelity has it. */
const KID = { subsets: 100, size: 1000 };

/** What a model is drawn with; useless without one. */
const OF_MODELS = ['prompts', 'column', 'count', 'steps', 'cfg-scale', 'vae', 'output', 'cpu-bf16'] as const;

export async function evalFid(call: EvalCall): Promise<number> {
  const { values, log, args } = call;
  const words = args.slice(1);
  const kinds = words.map(kindOf);
  checkKinds(call, words, kinds);
  const begin = performance.now();
  using measuring = new Measuring(call, openLapack, values.kid || values.pr);
  // What is wrong with either set comes to light before hours go into the other.
  const statistics = new Map<number, Side>();
  for (const [i, word] of words.entries()) {
    if (kinds[i] === 'statistics') statistics.set(i, await measuring.side(word, kinds[i]));
    if (kinds[i] === 'images') openImageSet(word);
  }
  if (statistics.size < 2) {
    const { extractor, origin } = await measuring.extractor();
    for (const side of statistics.values()) {
      checkOrigins(side, { name: 'the network of the images', gaussian: extractor, origin });
    }
  }
  const sides: Side[] = [];
  let prompts: string | null = null;
  for (const [i, word] of words.entries()) {
    if (kinds[i] === 'model') {
      const drawn = await draw(call, word);
      if (typeof drawn === 'number') return drawn;
      prompts = drawn.chosen;
      sides.push(await measuring.measure(word, filesOf(values.output!, drawn.files)));
    } else sides.push(statistics.get(i) ?? (await measuring.side(word, 'images')));
  }
  const [a, b] = sides as [Side, Side];
  const result = compareSides(await openLapack(), a, b, {
    kid: values.kid ? { ...KID, seed: values.seed } : null,
    precisionRecall: values.pr,
  });
  const remarks = [...measuring.warnings, ...result.remarks];
  for (const remark of remarks) log.warn(remark);
  const seconds = Number(((performance.now() - begin) / 1000).toFixed(2));
  const drawn = prompts === null ? {} : { prompts };
  if (values.json) stdout.line(encodeRecord({ ...record(result, a, b), ...drawn, remarks, seconds }));
  else stdout.write(page(result, a, b, prompts));
  return 0;
}

/** Refuses what the command line alone shows to be wrong. */
function checkKinds({ values, given }: EvalCall, words: readonly string[], kinds: readonly Kind[]): void {
  if (kinds.every((kind) => kind === 'model')) {
    throw usage('eval fid', 'compares a model with images, not with another model', 'Give images as B');
  }
  const drawing = kinds.indexOf('model');
  if (drawing >= 0 && (values.prompts === undefined || values.output === undefined)) {
    const fix = 'Write --prompts captions.json -o drawn/: the pictures stay there, and a second run goes on';
    throw usage(words[drawing]!, 'is a model: it needs prompts and a folder for its pictures', fix);
  }
  const same = (word: string, i: number) => i !== drawing && resolve(word) === resolve(values.output!);
  if (drawing >= 0 && words.some(same)) {
    throw usage(`-o ${values.output}`, 'is a set that is measured', 'Name another folder for the pictures');
  }
  const idle = OF_MODELS.find((flag) => given.has(flag));
  if (drawing < 0 && idle) {
    const absent = words.find((word) => !existsSync(word));
    if (absent) throw usage(absent, 'is no file, no folder and no known model', 'Check the name');
    throw usage(`--${idle}`, 'is for a model that draws, and there is none', 'Name a model as A');
  }
  const network = ['weights', 'features', 'clip'].find((flag) => given.has(flag));
  if (network && kinds.every((kind) => kind === 'statistics')) {
    throw usage(`--${network}`, 'chooses a network for images, both sets are statistics', 'Leave it out');
  }
  if (given.has('clip') && values.features !== 'clip' && drawing < 0) {
    throw usage('--clip', 'is for --features clip or a model that draws', 'Write --features clip as well');
  }
  const saved = kinds.indexOf('statistics');
  if (saved >= 0 && (values.kid || values.pr)) {
    const why = 'holds statistics; KID, precision and recall need the features of every image';
    throw usage(words[saved]!, why, 'Give the images themselves');
  }
}

/** Draws a model's pictures; an exit code where a signal came first. */
async function draw(
  call: EvalCall,
  word: string,
): Promise<{ files: readonly string[]; chosen: string } | number> {
  const { values, log, progress } = call;
  const folder = values.output!;
  const { count, column, seed } = values;
  const { prompts, chosen } = await readPromptList(values.prompts!, { count, column, seed, alike: true });
  const found = findModel(word);
  using file = openTensors(found.path);
  const backend = await openDevice(values, log);
  const given = { clip: values.clip ?? found.parts?.clip, vae: values.vae ?? found.parts?.vae };
  const facts = factsOf(file, given);
  const checksums: Record<string, string> = { model_sha256: await sha256Of(found.path) };
  for (const [part, path] of Object.entries(facts.parts)) {
    if (path !== undefined) checksums[`${part}_sha256`] = await sha256Of(path);
  }
  const model = openModel(backend, file, found.name, facts);
  const interrupt = watchSignals(log, 'ending after the pictures in hand; the same command goes on');
  const stop = new AbortController();
  void interrupt.stopped.then(() => stop.abort());
  const begin = performance.now();
  try {
    const files = await drawMissing(backend, model, prompts, folder, {
      checksums,
      steps: values.steps ?? model.recipe.sample.steps,
      cfg_scale: values['cfg-scale'] ?? model.recipe.sample.cfg_scale,
      seed,
      batchSize: values['batch-size'],
      signal: stop.signal,
      onPicture(done, total, drawn) {
        progress.update({ unit: 'picture', done, total, rate: drawn / ((performance.now() - begin) / 1000) });
      },
    });
    return { files, chosen };
  } catch (error) {
    if (interrupt.exitCode === undefined) throw error;
    return interrupt.exitCode;
  } finally {
    progress.finish();
    freeWeights(model.weights);
  }
}

function record({ frechet, kid, precisionRecall, origin }: FidResult, a: Side, b: Side) {
  const counts = [a.gaussian.count, b.gaussian.count];
  return {
    fid: frechet.distance,
    count: a.gaussian.count,
    counts,
    ...(kid ? { kid } : {}),
    ...(precisionRecall ? { precision: precisionRecall.precision, recall: precisionRecall.recall } : {}),
    sets: [a.name, b.name],
    weights: origin?.weights ?? null,
    resize: origin?.resize ?? null,
    features: a.gaussian.d,
    root: frechet.method,
    unreadable: [a.unreadable, b.unreadable],
  };
}

function page(
  { frechet, kid, precisionRecall: pr, origin }: FidResult,
  a: Side,
  b: Side,
  prompts: string | null,
): string {
  const lines: [string, string][] = [['fid', frechet.distance.toFixed(4)]];
  if (kid) {
    const of = `${kid.subsets} subsets of ${kid.subset_size}`;
    lines.push(['kid', `${kid.mean.toExponential(4)} +- ${kid.deviation.toExponential(2)} (${of})`]);
  }
  if (pr) {
    lines.push(['precision', `${pr.precision.toFixed(4)} (A within B, k = ${pr.k}, on these features)`]);
    lines.push(['recall', `${pr.recall.toFixed(4)} (B within A)`]);
  }
  const images = ({ name, gaussian, unreadable }: Side) => {
    const left = unreadable.length > 0 ? ` (${unreadable.length} left out)` : '';
    return `${gaussian.count ?? 'unknown number of'} images${left}, ${name}`;
  };
  lines.push(['A', images(a)], ['B', images(b)]);
  lines.push(['weights', origin?.weights ?? 'not known'], ['resize', origin?.resize ?? 'not known']);
  if (prompts !== null) lines.push(['prompts', prompts]);
  lines.push(['root', frechet.method]);
  return lines.map(([name, value]) => `${name.padEnd(12)}${value}\n`).join('');
}
