// The command sample in a process of its own, in a folder with small models: m.safetensors, a run folder
// `run`, and nan.safetensors, whose pictures are not finite.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { saveModel } from '../../../src/sample/model-file.ts';
import { writeWeight } from '../../../src/sample/weights.ts';
import { bothBackends } from '../op-case.ts';
import { tinyModel } from './tiny-model.ts';

export const MAIN = join(import.meta.dir, '../../../src/cli/main.ts');
export const folder = mkdtempSync(join(tmpdir(), 'microdiff-sample-'));
process.once('exit', () => rmSync(folder, { recursive: true }));
export const at = (...names: string[]) => join(folder, ...names);

const { f32 } = bothBackends();
const model = tinyModel(f32);
const saved = { backend: f32, parameters: model.network.parameters, weights: model.weights.master };
const from = { recipe: model.recipe, version: '0.0.0', step: 5, data: null };
mkdirSync(at('run/checkpoints/step-5'), { recursive: true });
writeFileSync(at('run/latest'), 'step-5\n');
saveModel(at('run/checkpoints/step-5/model.safetensors'), saved, from);
saveModel(at('m.safetensors'), saved, from);
const last = model.network.parameters.find('final_layer.linear.weight')!;
writeWeight(f32, model.weights, last, new Float32Array(last.count).fill(Number.NaN));
saveModel(at('nan.safetensors'), saved, from);

/** Runs it to its end; stdout is read as records where it begins with one. */
export function sample(args: readonly string[], stdin: string | Uint8Array = '', model = 'm.safetensors') {
  const words = [MAIN, 'sample', '-m', model, '--threads', '1', ...args];
  const env = { ...process.env, FORCE_COLOR: '', MICRODIFF_DEVICE: 'cpu' };
  const options = { cwd: folder, stdin: Buffer.from(stdin), env };
  const { exitCode, stdout, stderr } = Bun.spawnSync([process.execPath, ...words], options);
  const out = stdout.toString();
  const records = out.startsWith('{')
    ? out
        .trimEnd()
        .split('\n')
        .map((line) => JSON.parse(line))
    : [];
  return { code: exitCode, stdout, records, err: stderr.toString() };
}
