// Pictures that a model draws to be measured: one file a prompt in a folder, which a second run goes on
// filling. What they are drawn with stands beside them, and a folder of other settings is refused.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Backend } from '../backend/backend.ts';
import { makeFolder, writeWholeFile } from '../io/atomic.ts';
import { EXIT, Failure } from '../io/failure.ts';
import { osFailure } from '../io/oserror.ts';
import { encodePng } from '../io/png.ts';
import type { Model } from '../sample/model-file.ts';
import { Sampler } from '../sample/sampler.ts';

export interface DrawSettings {
  readonly steps: number;
  readonly cfg_scale: number;
  /** Of the first picture; picture i has seed + i. */
  readonly seed: number;
}

export interface DrawOptions extends DrawSettings {
  /** Checksums of the model's file and of what stands beside it, by the names they are kept under. */
  readonly checksums: Readonly<Record<string, string>>;
  readonly batchSize: number;
  /** `drawn` of them in this run. */
  readonly onPicture?: (done: number, total: number, drawn: number) => void;
  /** Looked at between batches. */
  readonly signal?: AbortSignal;
}

const SETTINGS = 'sampled.json';
const fileOf = (i: number) => `${String(i).padStart(6, '0')}.png`;

/** Draws what is missing; the files of all prompts. A picture that is not finite is a Failure. */
export async function drawMissing(
  backend: Backend,
  model: Model,
  prompts: readonly string[],
  folder: string,
  { checksums, batchSize, onPicture, signal, ...settings }: DrawOptions,
): Promise<string[]> {
  makeFolder(folder);
  keepSettings(folder, {
    ...{ model: model.name, model_step: model.step, ...settings, count: prompts.length },
    // A picture drawn in bfloat16 is another one.
    precision: backend.elemBytes.act === 2 ? 'bf16' : 'fp32',
    ...checksums,
    prompts_sha256: new Bun.CryptoHasher('sha256').update(JSON.stringify(prompts)).digest('hex'),
  });
  const missing = prompts.flatMap((_, i) => (existsSync(join(folder, fileOf(i))) ? [] : [i]));
  const sampler = new Sampler(backend, model, batchSize);
  let drawn = 0;
  try {
    for (let at = 0; at < missing.length; at += batchSize) {
      signal?.throwIfAborted();
      const part = missing.slice(at, at + batchSize);
      const { steps, cfg_scale, seed } = settings;
      const requests = part.map((i) => ({
        ...{ prompt: prompts[i]!, negative_prompt: '', seed: seed + i, steps, cfg_scale },
      }));
      for (const [k, { pixels }] of (await sampler.sample(requests)).entries()) {
        const i = part[k]!;
        if (!pixels) {
          const why = `the picture of prompt ${i} has values that are not finite`;
          throw new Failure({ what: model.name, why, code: EXIT.nonFinite });
        }
        writeWholeFile(join(folder, fileOf(i)), encodePng(pixels, []));
        drawn += 1;
        onPicture?.(prompts.length - missing.length + drawn, prompts.length, drawn);
      }
    }
  } finally {
    sampler.free();
  }
  return prompts.map((_, i) => fileOf(i));
}

/** Writes the settings into a folder without pictures; in one with them they must be the same. */
function keepSettings(folder: string, settings: Readonly<Record<string, unknown> & { count: number }>): void {
  const path = join(folder, SETTINGS);
  const text = `${JSON.stringify(settings, null, 1)}\n`;
  if (!existsSync(path)) {
    const files = Array.from({ length: settings.count }, (_, i) => fileOf(i));
    const stranger = files.find((file) => existsSync(join(folder, file)));
    if (stranger) {
      const why = `holds ${stranger}, and no ${SETTINGS} says what drew it`;
      throw new Failure({ what: folder, why, fix: 'Name another folder with -o', code: EXIT.usage });
    }
    writeWholeFile(path, text);
    return;
  }
  let old: string;
  try {
    old = readFileSync(path, 'utf8');
  } catch (error) {
    throw osFailure(error, path, 'read');
  }
  if (old === text) return;
  throw new Failure({
    what: folder,
    why: `holds pictures drawn with other settings (${SETTINGS})`,
    fix: 'Name another folder with -o, or the settings that they were drawn with',
    code: EXIT.usage,
  });
}
