// Command: what is in a file or a run folder.

import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { readLatest } from '../io/atomic.ts';
import { EXIT, Failure } from '../io/failure.ts';
import { encodeRecord, readRecords } from '../io/jsonl.ts';
import { osFailure } from '../io/oserror.ts';
import { readPngText } from '../io/png.ts';
import { count, Safetensors } from '../io/safetensors.ts';
import { bool } from '../recipe/field.ts';
import { command } from './command.ts';
import { flag, SHARED } from './flags.ts';
import { stdout } from './stdout.ts';

/** What is known of a file; the keys are those of --json. */
type Info = Readonly<Record<string, unknown>> & { readonly kind: string; readonly file: string };

export const info = command({
  name: 'info',
  summary: 'Shows what is in a model file, a picture, a metrics file or a run folder',
  flags: {
    tensors: flag(bool(false, 'List every tensor of a model file')),
    json: SHARED.json,
  },
  args: [{ name: 'file', meaning: 'A .safetensors, .png or .jsonl file, or a run folder', required: true }],
  examples: [
    ['microdiff info model.safetensors --tensors', 'parameters, types, metadata, and every tensor'],
    ['microdiff info apple.png', 'the prompt and the settings that made the picture'],
    ['microdiff info runs/emoji --json', 'step, loss and checkpoints of a run'],
  ],
  run({ args, values }) {
    const found = describe(args[0]!, values.tensors);
    stdout.write(values.json ? `${encodeRecord(found)}\n` : page(found));
    return 0;
  },
});

/** Reads what is needed to describe a file; throws a Failure for files of other kinds. */
export function describe(file: string, withTensors: boolean): Info {
  if (isFolder(file)) return describeRun(file);
  const extension = /\.([^./]+)$/.exec(file)?.[1]?.toLowerCase() ?? '';
  switch (extension) {
    case 'safetensors':
      return describeModel(file, withTensors);
    case 'png':
      return describePicture(file);
    case 'jsonl':
      return { kind: 'metrics', file, ...lastMetrics(file) };
    default:
      throw new Failure({
        what: file,
        why: 'not a kind of file that info knows',
        fix: 'It reads .safetensors, .png and .jsonl files and run folders',
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

function describeModel(file: string, withTensors: boolean): Info {
  using model = Safetensors.open(file);
  const entries = [...model.tensors.values()];
  const dtypes: Record<string, number> = {};
  for (const { dtype } of entries) dtypes[dtype] = (dtypes[dtype] ?? 0) + 1;
  const list = entries.map(({ name, dtype, shape }) => ({ name, dtype, shape }));
  return {
    kind: 'model',
    file,
    bytes: statSync(file).size,
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
      ([key, text]) => `  ${key}: ${String(text).replace(/\n/g, '\n    ')}`,
    );
    return rows.length === 0 ? [] : [name, ...rows];
  }
  return [`${name.padEnd(12)}${value ?? 'none'}`];
}

function tensorLine({ name, dtype, shape }: { name: string; dtype: string; shape: number[] }): string {
  return `  ${name}  ${dtype} [${shape.join(', ')}]`;
}
