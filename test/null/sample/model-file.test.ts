// Model files that cannot be used, and which file -m means. Nothing is computed: the null backend does.
import { afterAll, describe, expect, test } from 'bun:test';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { nullBackend } from '../../../src/backend/null.ts';
import { Safetensors } from '../../../src/io/safetensors.ts';
import { writeSafetensors } from '../../../src/io/safetensors_write.ts';
import { resolveRecipe } from '../../../src/recipe/resolve.ts';
import { findModel } from '../../../src/sample/find-model.ts';
import { loadModel, provenanceOf, saveModel } from '../../../src/sample/model-file.ts';
import { declareNetwork } from '../../../src/sample/network.ts';
import { allocFlat } from '../../../src/sample/weights.ts';

const folder = mkdtempSync(join(tmpdir(), 'microdiff-model-'));
afterAll(() => rmSync(folder, { recursive: true }));
const at = (name: string) => join(folder, name);

const backend = nullBackend();
const { recipe } = resolveRecipe({ given: { origin: 'test', values: { model: { preset: 'nano' } } } });
const network = declareNetwork(recipe.model, recipe.text);
const weights = allocFlat(backend, network.parameters, 'all');
const good = at('good.safetensors');
saveModel(
  good,
  { backend, parameters: network.parameters, weights },
  {
    recipe,
    version: '0.1.0',
    step: 3,
    data: 'abc',
  },
);

/** Loads a changed copy of the good file and returns the message of what goes wrong. */
function refusal(change: (text: string) => string): string {
  const bytes = readFileSync(good);
  const length = Number(bytes.readBigUInt64LE(0));
  const header = Buffer.from(change(bytes.toString('utf8', 8, 8 + length)));
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(header.length));
  return refusalOf(Buffer.concat([prefix, header, bytes.subarray(8 + length)]));
}

function refusalOf(bytes: Uint8Array): string {
  try {
    loadModel(backend, Safetensors.fromBytes(bytes, 'm.safetensors'), 'm');
  } catch (error) {
    return (error as Error).message;
  }
  return 'loaded';
}

describe('model files', () => {
  test('hold every tensor under its name, and where they come from', () => {
    using file = Safetensors.open(good);
    expect([...file.tensors.keys()].sort()).toEqual(network.parameters.list.map((p) => p.name).sort());
    expect(file.tensors.has('text_embedder.weight')).toBe(true);
    expect(file.tensors.has('blocks.0.mlp.w1.weight')).toBe(true);
    expect(provenanceOf(file)).toEqual({ recipe, version: '0.1.0', step: 3, data: 'abc' });
    expect(loadModel(backend, file, 'good').network.parameters.trainable).toBe(network.parameters.trainable);
  });

  test('of others, damaged or hostile ones are refused by name', () => {
    expect(refusal((header) => header.replace('microdiff.recipe', 'other'))).toBe(
      'm.safetensors: is no model of microdiff: its metadata has no microdiff.recipe. Use a file that ' +
        'microdiff train wrote',
    );
    expect(refusal((h) => h.replace('dim = 32\\n', 'dimm = 32\\n'))).toContain('its recipe cannot be used');
    expect(refusal((h) => h.replace('dim = 32\\n', 'dim = 32000000\\n'))).toContain('the model needs [');
    expect(refusal((h) => h.replace('depth = 2\\n', 'depth = 200000000\\n'))).toMatch(
      /its recipe has 200000002 blocks, the file has \d+ tensors/,
    );
    expect(refusal((h) => h.replace('"blocks.0.norm1.weight"', '"blocks.0.other"'))).toContain(
      'tensor blocks.0.norm1.weight is missing (it has blocks.0.other instead)',
    );
    expect(refusal((header) => header.trimEnd().slice(0, -3))).toContain('its header is not JSON');
    const bytes = readFileSync(good);
    expect(refusalOf(bytes.subarray(0, bytes.length - 5))).toContain('truncated');
    expect(refusalOf(bytes.subarray(0, 100))).toContain('truncated');
    expect(refusalOf(new Uint8Array(0))).toContain('not a safetensors file');
    expect(refusalOf(Buffer.concat([bytes, bytes]))).toContain('follow the last tensor');
  });

  test('of pictures that are not RGB are refused', () => {
    const grey = resolveRecipe({
      given: { origin: 'test', values: { model: { preset: 'nano', in_channels: 1 } } },
    }).recipe;
    const parts = declareNetwork(grey.model, grey.text).parameters;
    const flat = allocFlat(backend, parts, 'all');
    const from = { recipe: grey, version: '', step: 0, data: null };
    saveModel(at('grey.safetensors'), { backend, parameters: parts, weights: flat }, from);
    using file = Safetensors.open(at('grey.safetensors'));
    expect(() => loadModel(backend, file, 'grey')).toThrow('only RGB can be drawn');
  });
});

describe('-m', () => {
  const run = at('run');
  const put = (...names: string[]) => {
    for (const name of names) {
      mkdirSync(join(run, 'checkpoints', name, '..'), { recursive: true });
      writeFileSync(join(run, 'checkpoints', name), '');
    }
  };

  test('a name before a file, a file as it is', () => {
    expect(findModel('emoji', { emoji: '/in/side' })).toEqual({ name: 'emoji', path: '/in/side' });
    expect(findModel(undefined, { emoji: '/in/side' })).toEqual({ name: 'emoji', path: '/in/side' });
    expect(findModel(good)).toEqual({ name: good, path: good });
  });

  test('a run: its newest checkpoint, averages first', () => {
    mkdirSync(run);
    expect(() => findModel(run)).toThrow(`${run}: has no checkpoint yet`);
    put('step-1/model.safetensors', 'step-2/model.safetensors', 'step-2/ema.safetensors');
    writeFileSync(join(run, 'latest'), 'step-1\n');
    expect(findModel(run).path).toBe(join(run, 'checkpoints/step-1/model.safetensors'));
    writeFileSync(join(run, 'latest'), 'step-2\n');
    expect(findModel(run).path).toBe(join(run, 'checkpoints/step-2/ema.safetensors'));
    expect(findModel(join(run, 'checkpoints/step-1')).path).toEndWith('step-1/model.safetensors');
    writeFileSync(join(run, 'latest'), 'step-3\n');
    expect(() => findModel(run)).toThrow('its newest checkpoint step-3 has no model');
    writeFileSync(join(run, 'latest'), '../../step-2\n');
    expect(() => findModel(run)).toThrow('has no checkpoint yet');
  });

  test('nothing of that name says what there is', () => {
    expect(() => findModel('emojy', { emoji: '/x' })).toThrow(
      '-m emojy: neither a file nor a folder; this build carries emoji',
    );
    expect(() => findModel(undefined, {})).toThrow('model: emoji is not there: this build carries no model');
    expect(() => findModel(undefined, {})).toThrow(expect.objectContaining({ code: 3 }));
    expect(() => findModel('x', {})).toThrow(expect.objectContaining({ code: 2 }));
  });
});

test('a file that writeSafetensors made without metadata is no model', () => {
  const path = at('plain.safetensors');
  writeSafetensors(path, [{ name: 'x', dtype: 'F32', shape: [1], data: new Float32Array(1) }]);
  using file = Safetensors.open(path);
  expect(() => loadModel(backend, file, 'plain')).toThrow('is no model of microdiff');
});
