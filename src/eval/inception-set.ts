// Conformance of Inception with a folder of golden data: weights by formula, resized images, features, means
// of every module's output.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Backend } from '../backend/backend.ts';
import { stateDict } from '../inception/fold.ts';
import { declareInception, INCEPTION_SIDE } from '../inception/network.ts';
import { type RgbImage, resizeBilinear } from '../inception/resize.ts';
import { Failure } from '../io/failure.ts';
import { Safetensors } from '../io/safetensors.ts';
import { attempt, Group, type GroupResult, maxAbs, skipped } from './conformance.ts';
import { fnv1a64, formulaFile, formulaTensor, splitmix64, uniforms, Word64 } from './formula-weights.ts';
import { InceptionNetwork } from './inception.ts';
import { JsonObject } from './json-file.ts';

/** What each kind of number may be off by, absolute (golden README of this part). */
export const INCEPTION_BOUNDS = { features: 2e-4, means: 1e-4, resized: 1e-6 };

/** Gains of the made-up weights: what stands before the names of the features. */
const GAINS: Readonly<Record<string, number>> = { '': 1.6, 'gain1.': 1 };

const NAMES = 'inception_state_dict.json';
const HASHES = 'hash_test_values.json';
const SET = 'inception.safetensors';

/** The groups of the network, as they are done. `salt`: that of the weights' formula. */
export function* verifyInception(dir: string, backend: Backend, salt: string): Generator<GroupResult> {
  const has = (file: string) => existsSync(join(dir, file));
  if (has(NAMES)) yield* attempt('inception names', () => [checkNames(join(dir, NAMES))]);
  if (has(HASHES)) yield* attempt('weights by formula', () => [checkFormula(join(dir, HASHES), salt)]);
  if (!has(SET)) return;
  const path = join(dir, SET);
  yield* attempt('inception resized', () => [checkResized(path)]);
  if (backend.elemBytes.act === 2) {
    yield skipped('inception', 'is computed in float32: say --precision fp32');
    return;
  }
  for (const prefix of Object.keys(GAINS)) {
    yield* attempt(`inception ${prefix}features`, () => checkNetwork(path, backend, salt, prefix));
  }
}

/** Names, shapes and order of the state dict. */
function checkNames(path: string): GroupResult | null {
  const group = new Group('inception names', 0);
  const ours = [...stateDict(declareInception())];
  const theirs = JsonObject.read(path).objects();
  group.add(Math.abs(ours.length - theirs.length), 'number of tensors');
  for (const [i, [name, entry]] of theirs.entries()) {
    const [own, shape] = ours[i] ?? ['nothing', []];
    group.add(own === name && shape.join() === entry.numbers('shape').join() ? 0 : 1, name);
  }
  return group.result();
}

/** Each step of the formula, for GAIN 1.6. A set may give the steps with its salt or without. */
function checkFormula(path: string, salt: string): GroupResult | null {
  const group = new Group('weights by formula', 0);
  const file = JsonObject.read(path);
  const salts = [...new Set([salt, ''])];
  const least = (what: string, error: (salt: string) => number) =>
    group.add(Math.min(...salts.map(error)), what);
  const each = (key: string, check: (values: JsonObject, name: string) => void) => {
    const values = file.maybe(key);
    for (const name of values?.keys ?? []) check(values!, name);
  };
  const decimal = ({ high, low }: Word64) => String((BigInt(high) << 32n) | BigInt(low));
  each('fnv1a64', (values, text) => {
    const hash = (before: string) => decimal(fnv1a64(new TextEncoder().encode(before + text)));
    least(`fnv1a64 of "${text}"`, (before) => (hash(before) === values.text(text) ? 0 : 1));
  });
  each('splitmix64', (values, text) => {
    const x = BigInt(text);
    const word = new Word64(Number(x >> 32n), Number(x & 0xffffffffn));
    splitmix64(word);
    group.add(decimal(word) === values.text(text) ? 0 : 1, `splitmix64 of ${text}`);
  });
  each('u', (values, name) => {
    const want = values.numbers(name);
    least(`u of ${name}`, (before) => maxAbs(uniforms(before, name, want.length), want));
  });
  const shapes = stateDict(declareInception());
  each('tensor_first4', (values, name) => {
    const want = values.numbers(name);
    const made = (before: string) => formulaTensor(name, shapes.get(name) ?? [], { salt: before, gain: 1.6 });
    least(`first values of ${name}`, (before) => maxAbs(made(before).subarray(0, want.length), want));
  });
  return group.result();
}

/** Numbers of the images of a set. */
function imagesOf(file: Safetensors): string[] {
  return [...file.tensors.keys()].flatMap((name) => /^image(\d+)$/.exec(name)?.slice(1) ?? []);
}

function imageOf(file: Safetensors, k: string): RgbImage {
  const { shape, bytes } = file.readTensor(`image${k}`);
  const [C, height = 0, width = 0] = shape;
  if (C !== 3 || shape.length !== 3)
    throw new Failure({ what: file.path, why: `image${k} is not [3, H, W]` });
  const area = height * width;
  const data = new Uint8Array(3 * area);
  for (let i = 0; i < data.length; i++) data[i] = bytes[(i % 3) * area + Math.floor(i / 3)]!;
  return { width, height, data };
}

function checkResized(path: string): GroupResult | null {
  using file = Safetensors.open(path);
  const group = new Group('inception resized', INCEPTION_BOUNDS.resized);
  const side = INCEPTION_SIDE;
  const whole = new Float32Array(side * side * 3);
  for (const k of imagesOf(file)) {
    for (const name of [`resized${k}`, `resized${k}.crop`]) {
      if (!file.tensors.has(name)) continue;
      resizeBilinear(imageOf(file, k), side, whole);
      const view = { values: whole, shape: [1, side, side, 3] };
      const [, rows = 0, columns = 0] = file.entry(name).shape;
      group.add(maxAbs(corner(view, 3, rows, columns), file.readFloat32(name)), name);
    }
  }
  return group.result();
}

interface Output {
  readonly values: ArrayLike<number>;
  readonly shape: readonly number[];
}

/** Channels 0.., rows 0.. and the last columns of one image [1, H, W, C], as [channels, rows, columns]. */
function corner({ values, shape }: Output, channels: number, rows: number, columns: number): Float64Array {
  const [, , W = 0, C = 0] = shape;
  return Float64Array.from({ length: channels * rows * columns }, (_, i) => {
    const [x, y, c] = [i % columns, Math.floor(i / columns) % rows, Math.floor(i / columns / rows)];
    return values[(y * W + W - columns + x) * C + c]!;
  });
}

/** Means over the pixels of each channel. */
function channelMeans({ values, shape }: Output): Float64Array {
  const C = shape.at(-1)!;
  const means = new Float64Array(C);
  for (let i = 0; i < values.length; i++) means[i % C]! += values[i]!;
  return means.map((sum) => (sum * C) / values.length);
}

function checkNetwork(path: string, backend: Backend, salt: string, prefix: string): (GroupResult | null)[] {
  using file = Safetensors.open(path);
  const features = new Group(`inception ${prefix}features`, INCEPTION_BOUNDS.features);
  const means = new Group(`inception ${prefix}means`, INCEPTION_BOUNDS.means);
  const crops = new Group(`inception ${prefix}first module`, INCEPTION_BOUNDS.means);
  const wanted = imagesOf(file).filter((k) => file.tensors.has(`${prefix}features${k}`));
  if (wanted.length === 0) return [];
  const weights = formulaFile(stateDict(declareInception()), { salt, gain: GAINS[prefix]! });
  const network = InceptionNetwork.load(backend, weights, { batch: 1, tap: true });
  try {
    for (const k of wanted) {
      const name = `${prefix}features${k}`;
      features.add(maxAbs(network.features([imageOf(file, k)]), file.readFloat32(name)), name);
      for (const tensor of file.tensors.keys()) {
        const start = `${prefix}mean.`;
        if (!tensor.startsWith(start) || !tensor.endsWith(`.${k}`)) continue;
        const module = tensor.slice(start.length, -k.length - 1);
        const got = channelMeans(network.output(module === 'mixed6e' ? 'Mixed_6e' : module));
        means.add(maxAbs(got, file.readFloat32(tensor)), tensor);
      }
      const crop = `${prefix}conv1a.${k}.crop`;
      if (!file.tensors.has(crop)) continue;
      const [channels = 0, rows = 0, columns = 0] = file.entry(crop).shape;
      const got = corner(network.output('Conv2d_1a_3x3'), channels, rows, columns);
      crops.add(maxAbs(got, file.readFloat32(crop)), crop);
    }
  } finally {
    network.free();
  }
  return [features.result(), means.result(), crops.result()];
}
