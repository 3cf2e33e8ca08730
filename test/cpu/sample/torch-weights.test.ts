// Weights out of files of torch.save into a backend: equal to those of the safetensors file, to the bit.

import { expect, test } from 'bun:test';
import { join } from 'node:path';
import { readConfig } from '../../../src/eval/microdit-set.ts';
import { JsonObject } from '../../../src/eval/json-file.ts';
import { openTensors } from '../../../src/io/open-tensors.ts';
import { declareNetwork } from '../../../src/sample/network.ts';
import { allocWeights, freeWeights, loadWeights, readParameter } from '../../../src/sample/weights.ts';
import { bothBackends } from '../op-case.ts';

const GOLDENS = join(import.meta.dir, '../../goldens/microdit');
const at = (name: string) => join(GOLDENS, name);

test('zip, legacy, a checkpoint of Composer', () => {
  const config = readConfig(JsonObject.read(at('nano_bias.info.json')).object('config'));
  const { parameters } = declareNetwork(config, null);
  using expected = openTensors(at('nano_bias.weights.safetensors'));
  for (const backend of Object.values(bothBackends())) {
    for (const name of ['torch_zip.pt', 'torch_legacy.pt', 'composer_ckpt.pt']) {
      using file = openTensors(at(name));
      const weights = allocWeights(backend, parameters);
      loadWeights(backend, weights, parameters, file, file.prefix);
      for (const p of parameters.list) {
        const values = readParameter(backend, weights.master, p);
        expect(Float32Array.from(values)).toEqual(Float32Array.from(expected.readFloat32(p.name)));
      }
      freeWeights(weights);
    }
  }
});

test('a checkpoint with a part of the weights is refused by the first that is missing', () => {
  const config = readConfig(JsonObject.read(at('nano_bias.info.json')).object('config'));
  const { parameters } = declareNetwork(config, null);
  const backend = bothBackends().f32;
  using file = openTensors(at('composer_ckpt_with_rng.pt'));
  const weights = allocWeights(backend, parameters);
  const load = () => loadWeights(backend, weights, parameters, file, file.prefix);
  expect(load).toThrow(/composer_ckpt_with_rng\.pt: tensor \S+ is missing/);
  freeWeights(weights);
});
