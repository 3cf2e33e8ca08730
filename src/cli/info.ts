// Command: what is in a file or a run folder.

import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { readLatest } from '../io/atomic.ts';
import { EXIT, Failure } from '../io/failure.ts';
import { encodeRecord, readRecords } from '../io/jsonl.ts';
import { osFailure } from '../io/oserror.ts';
import { readPngText } from '../io/png.ts';
import { count } from '../io/tensor-file.ts';
import { TorchFile } from '../io/torch.ts';
import { openTensors, seemsTensors } from '../io/open-tensors.ts';
import { nullBackend } from '../backend/null.ts';
import { printPlan } from '../plan/plan.ts';
import { planRecord } from '../plan/record.ts';
import { bool, text } from '../recipe/field.ts';
import { forwardPlan } from '../sample/forward.ts';
import { guessContent } from '../sample/guess.ts';
import { keptPatches, microStepPlan, updatePlan } from '../train/step.ts';
import { stageWork } from '../train/work.ts';
import { command } from './command.ts';
import { DEVICE_FLAGS } from './device.ts';
import { flag, SHARED, usage } from './flags.ts';
import { memoryText } from './memory.ts';
import { stdout } from './stdout.ts';
import { findWorkload, type FoundWorkload, WORKLOAD_FLAGS } from './workload.ts';

/** What is known of a file; the keys are those of --json. */
type Info = Readonly<Record<string, unknown>> & { readonly kind: string; readonly file: string };

export const info = command({
  name: 'info',
  summary: 'Shows what is in a model file, a picture, a metrics file or a run folder, or a plan',
  flags: {
    tensors: flag(bool(false, 'List every tensor of a model file')),
    take: flag(
      text(undefined, 'Keys of the dictionary in a torch file that holds the tensors, as in state.model'),
      {
        hint: 'KEYS',
      },
    ),
    plan: flag(bool(false, 'Print the plans of a run folder, a preset or a recipe: ops, shapes, arena map')),
    memory: flag(
      bool(false, 'Print what GPU memory drawing with published weights takes, --batch pictures at once'),
    ),
    precision: DEVICE_FLAGS.precision,
    ...WORKLOAD_FLAGS,
    json: SHARED.json,
  },
  args: [{ name: 'file', meaning: 'A model (safetensors, torch), a .png or .jsonl file, or a run folder' }],
  examples: [
    ['microdiff info model.safetensors --tensors', 'parameters, types, metadata, and every tensor'],
    [
      'microdiff info dit_4_channel_37M.pt --json',
      'the same of a checkpoint of PyTorch; nothing in it is run',
    ],
    ['microdiff info apple.png', 'the prompt and the settings that made the picture'],
    ['microdiff info runs/emoji --json', 'step, loss and checkpoints of a run'],
    ['microdiff info --plan --preset MicroDiT_Tiny_2 --mask 0.75', 'ops and memory of a training step'],
    ['microdiff info --memory --preset MicroDiT_XL_2 --latent 64', 'GPU memory of one picture of 512 x 512'],
  ],
  async run({ args, values, given }) {
    const [file] = args;
    if (values.memory) {
      if (file !== undefined) throw usage('--memory', 'reads no file', 'Name a model with --preset');
      stdout.write(await memoryText(values));
      return 0;
    }
    if (values.plan) {
      stdout.write(plansText(findWorkload(planned(values, file), TRAINING, process.env), values.json));
      return 0;
    }
    const stray = [...Object.keys(WORKLOAD_FLAGS), 'precision'].find((name) => given.has(name));
    if (stray) throw usage(`--${stray}`, 'says what to plan', 'Add --plan or --memory');
    if (file === undefined) throw usage('file', 'missing', 'Name a file or a run folder, or say --plan');
    const found = describe(file, values.tensors, values.take);
    stdout.write(values.json ? `${encodeRecord(found)}\n` : page(found));
    return 0;
  },
});

/** What a preset is trained with where no flag says other. */
const TRAINING = { mask: 0.75, batch: 8 };

/** A run folder stands for the recipe in it. */
function planned<V extends { recipe: string | undefined }>(values: V, run: string | undefined): V {
  if (run === undefined) return values;
  if (values.recipe !== undefined) throw usage('--recipe', `given together with ${run}`, 'Give one of them');
  return { ...values, recipe: join(run, 'recipe.toml') };
}

/** The plans of a pass, an update and a forward pass. Needs no native library. */
function plansText({ network, recipe, stage, name }: FoundWorkload, json: boolean): string {
  const { elemBytes } = nullBackend();
  const { step, update } = stageWork(recipe, stage);
  const kept = keptPatches(network, step.maskRatio);
  const { batch, captionLength = recipe.text.length, sigmaData } = step;
  const plans = [
    microStepPlan(network, step, elemBytes),
    updatePlan(network.parameters, update, elemBytes),
    forwardPlan(network, { batch, kept, captionLength, sigmaData }, elemBytes),
  ];
  if (!json) return plans.map(printPlan).join('\n');
  const { passes, maskRatio } = step;
  const about = { kind: 'plan', model: name, batch, passes, mask_ratio: maskRatio };
  return `${encodeRecord({ ...about, plans: plans.map(planRecord) })}\n`;
}

/** Reads what is needed to describe a file; throws a Failure for files of other kinds. */
export function describe(file: string, withTensors: boolean, take?: string): Info {
  if (isFolder(file)) return describeRun(file);
  const extension = /\.([^./]+)$/.exec(file)?.[1]?.toLowerCase() ?? '';
  switch (extension) {
    case 'png':
      return describePicture(file);
    case 'jsonl':
      return { kind: 'metrics', file, ...lastMetrics(file) };
    default:
      if (seemsTensors(file)) return describeModel(file, withTensors, take);
      throw new Failure({
        what: file,
        why: 'not a kind of file that info knows',
        fix: 'It reads safetensors and torch files, .png and .jsonl files and run folders',
        code: EXIT.usage,
      });
  }
}

function isFolder(file: string): boolean {
  try {
    return statSync(file).isDirectory();
  } catch (error) {
    throw osFailure(error, file, 'read');
  }
}

function describeModel(file: string, withTensors: boolean, take: string | undefined): Info {
  using model = openTensors(file, take === undefined ? {} : { take });
  const entries = [...model.tensors.values()];
  const dtypes: Record<string, number> = {};
  for (const { dtype } of entries) dtypes[dtype] = (dtypes[dtype] ?? 0) + 1;
  const list = entries.map(({ name, dtype, shape }) => ({ name, dtype, shape }));
  const torch = model instanceof TorchFile ? { place: model.place, others: model.others } : {};
  return {
    kind: 'model',
    file,
    bytes: statSync(file).size,
    format: model.format,
    ...torch,
    guess: guessContent(model.tensors),
    tensors: entries.length,
    numbers: entries.reduce((sum, entry) => sum + count(entry), 0),
    dtypes,
    metadata: Object.fromEntries(model.metadata),
    ...(withTensors ? { list } : {}),
  };
}

function describePicture(file: string): Info {
  const { width, height, texts } = readPngText(file);
  return {
    kind: 'picture',
    file,
    bytes: statSync(file).size,
    width,
    height,
    texts: Object.fromEntries(texts.map(({ keyword, text }) => [keyword, text])),
  };
}

function describeRun(folder: string): Info {
  const metrics = join(folder, 'metrics.jsonl');
  if (!existsSync(metrics) && !existsSync(join(folder, 'recipe.toml'))) {
    throw new Failure({
      what: folder,
      why: 'not a run folder: it has neither recipe.toml nor metrics.jsonl',
      fix: 'Name the folder that train wrote',
      code: EXIT.usage,
    });
  }
  const checkpoints = join(folder, 'checkpoints');
  const names = existsSync(checkpoints)
    ? readdirSync(checkpoints).filter((name) => name.startsWith('step-'))
    : [];
  return {
    kind: 'run',
    file: folder,
    ...(existsSync(metrics) ? lastMetrics(metrics) : { records: 0, last: null }),
    checkpoints: names.sort(),
    latest: readLatest(folder) ?? null,
  };
}

function lastMetrics(file: string) {
  const records = readRecords(file);
  return { records: records.length, last: records.at(-1) ?? null };
}

function page(found: Info): string {
  const lines = Object.entries(found).flatMap(([name, value]) => field(name, value));
  return `${lines.join('\n')}\n`;
}

function field(name: string, value: unknown): string[] {
  if (name === 'list') return (value as { name: string; dtype: string; shape: number[] }[]).map(tensorLine);
  if (typeof value === 'number') return [`${name.padEnd(12)}${value.toLocaleString('en-US')}`];
  if (Array.isArray(value)) return [`${name.padEnd(12)}${value.length === 0 ? 'none' : value.join(', ')}`];
  if (typeof value === 'object' && value !== null) {
    const rows = Object.entries(value).map(
      ([key, text]) => `  ${key}: ${wordsOf(text).replace(/\n/g, '\n    ')}`,
    );
    return rows.length === 0 ? [] : [name, ...rows];
  }
  return [`${name.padEnd(12)}${value ?? 'none'}`];
}

function tensorLine({ name, dtype, shape }: { name: string; dtype: string; shape: number[] }): string {
  return `  ${name}  ${dtype} [${shape.join(', ')}]`;
}

/** Lists of records, such as losses by noise level, as JSON. */
function wordsOf(value: unknown): string {
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}
