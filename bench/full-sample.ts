// One 512 px picture with made-up weights of full size (bench/full-size.ts), by the executable, on the CPU:
// the
// seconds of each part, and the most anonymous memory beside what the weights and the plans take.
//
// bun bench/full-sample.ts FOLDER [flags of sample]     FOLDER: dit.pt, clip.bin, vae.safetensors; made if
// missing

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { nullBackend } from '../src/backend/null.ts';
import { openTensors } from '../src/io/open-tensors.ts';
import { Parameters, Weights } from '../src/plan/params.ts';
import { freeze, type Plan } from '../src/plan/plan.ts';
import { Trace } from '../src/plan/trace.ts';
import { Denoiser } from '../src/sample/denoiser.ts';
import { declareNetwork } from '../src/sample/network.ts';
import { publishedRecipe } from '../src/sample/published.ts';
import { Strips } from '../src/sample/strips.ts';
import { allocWeights } from '../src/sample/weights.ts';
import { declareClipText, encodeClip } from '../src/text/clip.ts';
import { DFN5B_TEXT } from '../src/text/clip-config.ts';
import { declareAutoencoder } from '../src/vae/autoencoder.ts';
import { readVaeConfigFile } from '../src/vae/config.ts';

const [folder, ...flags] = process.argv.slice(2);
if (folder === undefined) throw new Error('usage: bun bench/full-sample.ts FOLDER [flags of sample]');
const root = join(import.meta.dir, '..');
const at = (name: string) => join(folder, name);
const make = (...words: string[]) => {
  const { exitCode } = Bun.spawnSync([process.execPath, join(root, 'bench/full-size.ts'), ...words]);
  if (exitCode !== 0) throw new Error(`making ${words.join(' ')} failed`);
};
if (!existsSync(at('clip.bin'))) make('parts', folder);
if (!existsSync(at('dit.pt'))) make('make', at('dit.pt'));

/** Bytes of weights in float32, and of all that the plans of one picture hold beside them. */
function planned(): { readonly weights: number; readonly plans: number } {
  const backend = nullBackend();
  const bytesOf = ({ program }: Plan) => (program.spaceBytes.arena ?? 0) + (program.spaceBytes.input ?? 0);
  using file = openTensors(at('dit.pt'));
  const recipe = publishedRecipe(file);
  const network = declareNetwork(recipe.model, null);
  const weights = allocWeights(backend, network.parameters);
  const denoiser = new Denoiser({
    ...{ backend, network, weights, batch: 1, guidance: 'zero' },
    ...{ sigmaData: recipe.diffusion.sigma_data, captionLength: DFN5B_TEXT.context },
  });
  const steps = new Set(denoiser.regions.filter((region) => region !== weights.weight));
  const clip = new Parameters();
  const tower = declareClipText(clip, DFN5B_TEXT, false);
  const trace = new Trace();
  const g = { weights: new Weights(trace, clip, false), exactRows: true };
  trace.output('states', encodeClip(g, tower, trace.input('tokens', [1, DFN5B_TEXT.context, 2], 'i32')));
  const model = declareAutoencoder(readVaeConfigFile(at('vae.config.json')));
  const decoder = { backend, model, weights: allocWeights(backend, model.parameters) };
  const side = recipe.model.input_size;
  const strips = new Strips(decoder, { height: side, width: side }).tiling(2 ** 31);
  const all = [network.parameters, clip, model.parameters];
  return {
    weights: all.reduce((sum, { end }) => sum + 4 * end, 0),
    plans:
      [...steps].reduce((sum, { bytes }) => sum + bytes, 0) +
      bytesOf(freeze('clip', trace, { elemBytes: backend.elemBytes })) +
      strips.bytes,
  };
}

const words = ['sample', '-m', at('dit.pt'), '--clip', at('clip.bin'), '--vae', at('vae.safetensors')];
const command = [join(root, 'dist/microdiff'), ...words, 'a fox', '--device', 'cpu', '--verbose', ...flags];
const begin = performance.now();
const child = Bun.spawn([...command, '-o', at('fox.png')], { stdout: 'pipe', stderr: 'pipe' });
let anonymous = 0;
const sample = setInterval(() => {
  const status = existsSync(`/proc/${child.pid}/status`)
    ? readFileSync(`/proc/${child.pid}/status`, 'utf8')
    : '';
  anonymous = Math.max(anonymous, 1024 * Number(/^RssAnon:\s+(\d+) kB/m.exec(status)?.[1] ?? 0));
}, 20);
const [told, record, code] = await Promise.all([
  new Response(child.stderr).text(),
  new Response(child.stdout).text(),
  child.exited,
]);
clearInterval(sample);
const seconds = (performance.now() - begin) / 1000;
process.stderr.write(told);
if (code !== 0) throw new Error(`exit code ${code}`);
const { weights, plans } = planned();
const bound = 1.2 * (weights + plans);
console.log(JSON.stringify({ seconds, weights, plans, anonymous, bound, within: anonymous <= bound }));
process.stdout.write(record);
