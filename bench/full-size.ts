// Made-up weights of full size, and how long a file takes to load: MicroDiT_XL_2, DFN5B's text tower and
// SDXL's autoencoder under their own names and shapes, random values, as torch.save writes them (zip64) or as
// safetensors.
//
//   bun bench/full-size.ts make FILE.pt|FILE.safetensors [in_channels]      the transformer, 4.66 GB
// bun bench/full-size.ts parts FOLDER [latent_channels]     clip.bin, 1.4 GB; vae.safetensors,
// vae.config.json
//   bun bench/full-size.ts load FILE [in_channels]       seconds, bytes of anonymous memory, bytes of weights

import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { cpuBackend } from '../src/backend/cpu.ts';
import { openTensors } from '../src/io/open-tensors.ts';
import { type TensorToWrite, writeSafetensors } from '../src/io/safetensors_write.ts';
import { type Parameter, Parameters } from '../src/plan/params.ts';
import { presetRows } from '../src/recipe/presets.ts';
import { type ModelConfig, TABLES } from '../src/recipe/schema.ts';
import { declareNetwork } from '../src/sample/network.ts';
import { allocWeights, freeWeights, loadWeights } from '../src/sample/weights.ts';
import { declareClipText } from '../src/text/clip.ts';
import { DFN5B_TEXT } from '../src/text/clip-config.ts';
import { declareAutoencoder } from '../src/vae/autoencoder.ts';
import { readVaeConfig } from '../src/vae/config.ts';
import { fileShape } from '../src/vae/names.ts';
import { bytes, ordered, pickle, tensor, text, u16, u32, u64 } from '../test/null/torch-case.ts';

const [action, path = '', channels = '4'] = process.argv.slice(2);

/** A tensor of a file. */
type Made = Pick<Parameter, 'name' | 'shape' | 'count'>;

function transformer(): Parameters {
  const defaults = Object.fromEntries(Object.entries(TABLES.model).map(([key, row]) => [key, row.default]));
  const preset = presetRows.MicroDiT_XL_2?.model;
  const config = { ...defaults, ...preset, in_channels: Number(channels), input_size: 64 } as ModelConfig;
  return declareNetwork(config, null).parameters;
}

function textTower(): readonly Made[] {
  const parameters = new Parameters();
  declareClipText(parameters, DFN5B_TEXT, true);
  return [...parameters.list, { name: 'logit_scale', shape: [], count: 1 }];
}

/** diffusers' config.json of the SDXL autoencoder, or one with more channels. */
const VAE = {
  _class_name: 'AutoencoderKL',
  ...{ block_out_channels: [128, 256, 512, 512], layers_per_block: 2, norm_num_groups: 32 },
  ...{ latent_channels: Number(channels), scaling_factor: 0.13025 },
};

function autoencoder(): readonly Made[] {
  const { list } = declareAutoencoder(readVaeConfig(VAE, 'config')).parameters;
  return list.map((p) => {
    const shape = fileShape(p);
    // The projections of attention are linear layers.
    return { ...p, shape: p.name.includes('.attentions.') ? shape.slice(0, 2) : shape };
  });
}

/** Values of the size of trained weights, the same ones over and over from another place for each tensor. */
const POOL = new Float32Array(2 ** 22 + 1);
let state = 1;
for (let i = 0; i < POOL.length; i++) {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  POOL[i] = (state / 2 ** 32 - 0.5) * 0.07;
}

/** Factors of norms lie around 1, everything else around 0. */
function* values({ name, shape, count }: Made, seed: number): Generator<Float32Array> {
  const factor = shape.length === 1 && name.endsWith('weight');
  for (let at = 0; at < count; ) {
    const begin = (seed * 9973 + at) % 4096;
    const part = POOL.subarray(begin, begin + Math.min(count - at, POOL.length - 4096));
    yield factor ? part.map((v) => 1 + v) : part;
    at += part.length;
  }
}

/** Runs of C-contiguous strides of a shape. */
const stridesOf = (shape: readonly number[]) =>
  shape.map((_, i) => shape.slice(i + 1).reduce((p, n) => p * n, 1));

/** The archive of torch.save: entries aligned to 64 bytes, places beyond 4 GiB in zip64. */
function writeTorch(path: string, list: readonly Made[]): void {
  const words = list.flatMap((p, i) => [
    text(p.name),
    tensor({ key: String(i), held: p.count, shape: p.shape, strides: stridesOf(p.shape) }),
  ]);
  const state_dict = pickle(ordered(...words));
  const fd = openSync(path, 'w');
  const central: Uint8Array[] = [];
  let at = 0;
  const put = (name: string, size: number, parts: () => Iterable<ArrayBufferView>) => {
    const pad = (64 - ((at + 30 + name.length + 4) % 64)) % 64;
    const begin = at + 30 + name.length + 4 + pad;
    let [crc, end] = [0, begin];
    for (const part of parts()) {
      const chunk = bytes(part);
      crc = crc32(chunk, crc);
      for (let done = 0; done < chunk.length; )
        done += writeSync(fd, chunk, done, chunk.length - done, end + done);
      end += chunk.length;
    }
    const sizes = [u16(0), u16(0), u32(0), u32(crc), u32(size), u32(size)];
    const head = bytes('PK\x03\x04', u16(20), ...sizes, u16(name.length), u16(4 + pad), name, 'FB', u16(pad));
    writeSync(fd, head, 0, head.length, at);
    const far = at >= 2 ** 32 - 1;
    const extra = far ? bytes(u16(1), u16(8), u64(at)) : bytes();
    const rest = [u16(0), u16(0), u16(0), u32(0), u32(far ? 2 ** 32 - 1 : at)];
    central.push(
      bytes(
        'PK\x01\x02',
        u16(45),
        u16(45),
        ...sizes,
        u16(name.length),
        u16(extra.length),
        ...rest,
        name,
        extra,
      ),
    );
    at = end;
  };
  put('full/data.pkl', state_dict.length, () => [state_dict]);
  put('full/byteorder', 6, () => [bytes('little')]);
  for (const [i, made] of list.entries()) put(`full/data/${i}`, 4 * made.count, () => values(made, i));
  put('full/version', 2, () => [bytes('3\n')]);
  const directory = bytes(...central);
  const numbers = [u64(central.length), u64(central.length), u64(directory.length), u64(at)];
  const end64 = bytes('PK\x06\x06', u64(44), u16(45), u16(45), u32(0), u32(0), ...numbers);
  const locator = bytes('PK\x06\x07', u32(0), u64(at + directory.length), u32(1));
  const few = [u16(central.length), u16(central.length), u32(directory.length), u32(2 ** 32 - 1)];
  const tail = bytes(directory, end64, locator, 'PK\x05\x06', u32(0), ...few, u16(0));
  writeSync(fd, tail, 0, tail.length, at);
  closeSync(fd);
}

function writeSafe(path: string, list: readonly Made[]): void {
  const tensors = list.map((made, i): TensorToWrite => {
    return { name: made.name, dtype: 'F32', shape: made.shape, data: () => values(made, i) };
  });
  writeSafetensors(path, tensors, { metadata: { format: 'pt' } });
}

async function load(): Promise<void> {
  const backend = await cpuBackend();
  const before = anonymous();
  const begin = performance.now();
  using file = openTensors(path);
  const parameters = transformer();
  const weights = allocWeights(backend, parameters);
  loadWeights(backend, weights, parameters, file, file.prefix);
  const seconds = (performance.now() - begin) / 1000;
  const held = parameters.end * backend.elemBytes.act;
  console.log(JSON.stringify({ seconds, weights: held, anonymous: anonymous() - before, peak: peak() }));
  freeWeights(weights);
}

const status = (key: string) => {
  const line = new RegExp(`^${key}:\\s+(\\d+) kB`, 'm').exec(readFileSync('/proc/self/status', 'utf8'));
  return Number(line?.[1] ?? Number.NaN) * 1024;
};
const anonymous = () => status('RssAnon');
const peak = () => status('VmHWM');

function makeParts(folder: string): void {
  mkdirSync(folder, { recursive: true });
  writeTorch(join(folder, 'clip.bin'), textTower());
  writeSafe(join(folder, 'vae.safetensors'), autoencoder());
  writeFileSync(join(folder, 'vae.config.json'), JSON.stringify(VAE));
}

const safe = path.endsWith('.safetensors');
if (action === 'load') await load();
else if (action === 'make' && path !== '') (safe ? writeSafe : writeTorch)(path, transformer().list);
else if (action === 'parts' && path !== '') makeParts(path);
else throw new Error('usage: bun bench/full-size.ts make|parts|load PATH [channels]');
