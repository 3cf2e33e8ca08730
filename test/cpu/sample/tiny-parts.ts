// Small made-up weights of published models: a transformer, a text tower and autoencoders with 4 and 16
// channels, each in a file of its own.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeSafetensors } from '../../../src/io/safetensors_write.ts';
import { type Parameter, Parameters } from '../../../src/plan/params.ts';
import { resolveRecipe } from '../../../src/recipe/resolve.ts';
import { declareNetwork } from '../../../src/sample/network.ts';
import { CLIP_VOCABULARY } from '../../../src/text/bpe.ts';
import { declareClipText } from '../../../src/text/clip.ts';
import { clipTextConfig } from '../../../src/text/clip-config.ts';
import { declareAutoencoder } from '../../../src/vae/autoencoder.ts';
import { readVaeConfig } from '../../../src/vae/config.ts';
import { fileShape } from '../../../src/vae/names.ts';
import { randomValues } from '../op-case.ts';

/** Writes made-up values; vectors lie around 1. */
function write(
  path: string,
  list: readonly Parameter[],
  shapeOf = (p: Parameter) => p.shape,
  broken = false,
): void {
  const tensors = list.map((p) => {
    const values = broken
      ? new Float64Array(p.count).fill(Number.NaN)
      : randomValues(p.count, p.index + 1).map((v) => (p.shape.length > 1 ? 0.2 * v : 1 + 0.1 * v));
    return { name: p.name, dtype: 'F32' as const, shape: shapeOf(p), data: Float32Array.from(values) };
  });
  writeSafetensors(path, tensors);
}

/** Writes models, towers and autoencoders, sound and broken ones, with configs beside them, into a folder. */
export function writeTinyParts(folder: string): void {
  const at = (name: string) => join(folder, name);
  const sizes = { in_channels: 4, input_size: 8, caption_channels: 8 };
  const values = { model: { preset: 'nano', ...sizes } };
  const { recipe } = resolveRecipe({ given: { origin: 'test', values } });
  const { list } = declareNetwork(recipe.model, null).parameters;
  write(at('dit.safetensors'), list);
  write(at('short.safetensors'), list.slice(0, -1));
  write(at('other.safetensors'), list, (p) => (p === list[5] ? [...p.shape, 1] : p.shape));

  const clip = {
    embed_dim: 8,
    text_cfg: { context_length: 77, vocab_size: CLIP_VOCABULARY, width: 8, heads: 2, layers: 1 },
  };
  writeFileSync(at('clip.config.json'), JSON.stringify(clip));
  const parameters = new Parameters();
  declareClipText(parameters, clipTextConfig(clip, 'test'), false);
  write(at('clip.safetensors'), parameters.list);

  const wide = { ...clip, text_cfg: { ...clip.text_cfg, width: 16 } };
  writeFileSync(at('wide.config.json'), JSON.stringify(wide));
  const wider = new Parameters();
  declareClipText(wider, clipTextConfig(wide, 'test'), false);
  write(at('wide.safetensors'), wider.list);

  for (const [name, latent_channels, out_channels] of [
    ['vae', 4, 3],
    ['vae16', 16, 3],
    ['gray', 4, 1],
    ['nan', 4, 3],
  ] as const) {
    const vae = {
      out_channels,
      ...{ block_out_channels: [8, 16], norm_num_groups: 4, latent_channels },
      scaling_factor: 0.13025,
    };
    writeFileSync(at(`${name}.config.json`), JSON.stringify(vae));
    const model = declareAutoencoder(readVaeConfig(vae, 'test'));
    write(at(`${name}.safetensors`), model.parameters.list, (p) => [...fileShape(p)], name === 'nan');
  }
}
