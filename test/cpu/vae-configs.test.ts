// Autoencoders of many configs with random weights against the plain one (vae-plain.ts): latent channels,
// numbers of levels and layers, with and without attention and quant convolutions, pictures of odd sizes.
import { describe, expect, test } from 'bun:test';
import { type TensorFile, Vae } from '../../src/sample/autoencoder.ts';
import { declareAutoencoder } from '../../src/vae/autoencoder.ts';
import { readVaeConfig, type VaeConfig, vaeFactor } from '../../src/vae/config.ts';
import { fileShape } from '../../src/vae/names.ts';
import { bothBackends, nmse, randomValues } from './op-case.ts';
import { plainDecode, plainEncode, type Tensors } from './vae-plain.ts';

/** Random weights in the order of files, sized so that values stay near 1. */
function randomTensors(config: VaeConfig): Tensors {
  const list = declareAutoencoder(config).parameters.list;
  return Object.fromEntries(
    list.map((p, i) => {
      const shape = fileShape(p);
      const [out = 1] = shape;
      const scale = shape.length === 1 ? 0.3 : 1.7 / Math.sqrt(p.count / out);
      const shift = shape.length === 1 && p.name.endsWith('weight') ? 1 : 0;
      return [p.name, { shape, v: randomValues(p.count, i + 1).map((v) => Math.fround(v * scale + shift)) }];
    }),
  );
}

const fileOf = (t: Tensors): TensorFile => ({
  path: 'random.safetensors',
  tensors: new Map(Object.entries(t)),
  readFloat32: (name) => Float32Array.from(t[name]!.v),
  readFloat64: (name) => t[name]!.v,
});

const small = { block_out_channels: [8, 12], norm_num_groups: 4, layers_per_block: 1, scaling_factor: 1 };

describe.each<[string, Record<string, unknown>, [number, number]]>([
  ['small, wide picture', small, [6, 11]],
  [
    '16 latent channels, no quant convs',
    { ...small, latent_channels: 16, use_quant_conv: false, use_post_quant_conv: false },
    [8, 6],
  ],
  ['without attention', { ...small, mid_block_add_attention: false }, [7, 4]],
  ['one level, one group', { ...small, block_out_channels: [5], norm_num_groups: 1 }, [3, 5]],
  ['three levels, three layers', { ...small, block_out_channels: [4, 8, 4], layers_per_block: 3 }, [13, 8]],
  ['one channel in, two out', { ...small, in_channels: 1, out_channels: 2 }, [4, 4]],
  ['no quant conv in the encoder alone', { ...small, use_quant_conv: false }, [4, 4]],
])('%s', (_, json, [height, width]) => {
  const config = readVaeConfig(json, 'config.json');
  const tensors = randomTensors(config);
  const picture = randomValues(config.in_channels * height * width, 77);
  const want = plainEncode(tensors, config, { C: config.in_channels, H: height, W: width, v: picture });
  const z = config.latent_channels;
  const size = { height: want.H, width: want.W };
  const latent = randomValues(z * want.H * want.W, 78);
  const drawn = plainDecode(tensors, config, { C: z, H: want.H, W: want.W, v: latent });

  test.each([
    ['f64', 1e-24],
    ['f32', 1e-10],
  ] as const)('%s', (kind, bound) => {
    const f = vaeFactor(config);
    expect([drawn.H, drawn.W]).toEqual([want.H * f, want.W * f]);
    const vae = Vae.load(bothBackends()[kind], config, fileOf(tensors));
    const moments = vae.encode(picture, { height, width });
    expect(moments.length).toBe(want.v.length);
    expect(nmse(moments, want.v)).toBeLessThan(bound);
    const decoded = vae.decode(latent, size);
    expect(decoded.length).toBe(drawn.v.length);
    expect(nmse(decoded, drawn.v)).toBeLessThan(bound);
    vae.free();
  });
});
