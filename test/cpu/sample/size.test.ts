// Pictures of other sizes than the trained one: the same bits at that size, and a plain float64 network
// elsewhere.
import { describe, expect, test } from 'bun:test';
import { readFileSync } from 'node:fs';
import { encodePng, readPngText } from '../../../src/io/png.ts';
import { resolveRecipe } from '../../../src/recipe/resolve.ts';
import { Denoiser } from '../../../src/sample/denoiser.ts';
import { declareNetwork } from '../../../src/sample/network.ts';
import { Sampler } from '../../../src/sample/sampler.ts';
import { positionsFor } from '../../../src/sample/size.ts';
import { allocWeights, readParameter, writeWeight } from '../../../src/sample/weights.ts';
import { parameterValues } from '../network-case.ts';
import { PlainDiT } from '../network-plain.ts';
import { bothBackends, randomValues } from '../op-case.ts';
import { at, sample } from './sample-command.ts';
import { tinyModel } from './tiny-model.ts';

const { f32, f64 } = bothBackends();
const SIGMA_DATA = 0.5;

describe('the denoiser', () => {
  test('at the trained size, by positions that are given: the same bits', () => {
    const { network, weights } = tinyModel(f32);
    const { input_size: side, patch_size } = network.dit.config;
    const grid = { rows: side / patch_size, columns: side / patch_size };
    const other = { height: side, width: side, positions: positionsFor(f32, network, weights, grid) };
    const base = {
      backend: f32,
      network,
      weights,
      sigmaData: SIGMA_DATA,
      batch: 2,
      guidance: 'zero',
    } as const;
    const results = [new Denoiser(base), new Denoiser({ ...base, other })].map((denoiser) => {
      denoiser.setCaptions(new Int32Array(2 * network.words!.length * 2));
      return denoiser.denoise(randomValues(2 * 3 * side * side, 3), 1.5, 3);
    });
    expect(results[1]).toEqual(results[0]!);
    expect(new Set(results[0]!).size).toBeGreaterThan(100);
  });

  test.each([
    [12, 6, 1],
    [4, 20, 2],
  ])('%d x %d, positions scaled by %d: as a plain network in float64', (height, width, scale) => {
    const toml = `[model]\npreset = "nano"\npos_interp_scale = ${scale}\n`;
    const { recipe } = resolveRecipe({ file: { name: 'test.toml', text: toml } });
    const { model: c } = recipe;
    const network = declareNetwork(c, null);
    const weights = allocWeights(f64, network.parameters);
    for (const p of network.parameters.list) {
      const values = p.init.kind === 'values' ? p.init.values() : parameterValues(p, 1);
      writeWeight(f64, weights, p, values);
    }
    const grid = { rows: height / c.patch_size, columns: width / c.patch_size };
    const positions = positionsFor(f64, network, weights, grid);
    const [batch, S, sigma] = [2, 3, 1.75];
    const denoiser = new Denoiser({
      ...{ backend: f64, network, weights, sigmaData: SIGMA_DATA, batch, guidance: 'none' },
      ...{ captionLength: S, other: { height, width, positions } },
    });
    const captions = randomValues(batch * S * c.caption_channels, 8);
    denoiser.setCaptions(captions);
    const x = randomValues(batch * 3 * height * width, 9);
    const D = denoiser.denoise(x, sigma, 1);

    const state = new Map(
      network.parameters.list.map((p) => [
        p.name,
        { values: Float64Array.from(readParameter(f64, weights.master, p)), shape: p.shape },
      ]),
    );
    const values = Float64Array.from(plainPositions(grid, c.dim, c.input_size / c.patch_size, scale));
    state.set('pos_embed', { values, shape: [1, values.length / c.dim, c.dim] });
    const plain = new PlainDiT(c, state, { height, width });
    const spread = Math.hypot(sigma, SIGMA_DATA);
    const count = 3 * height * width;
    for (let n = 0; n < batch; n++) {
      const image = Array.from(x.subarray(n * count, (n + 1) * count));
      const rows = Array.from(
        captions.subarray(n * S * c.caption_channels, (n + 1) * S * c.caption_channels),
      );
      const y = Array.from({ length: S }, (_, s) =>
        rows.slice(s * c.caption_channels, (s + 1) * c.caption_channels),
      );
      const F = plain.forward(
        image.map((v) => v / spread),
        Math.log(sigma) / 4,
        y,
        null,
      );
      const wanted = F.map(
        (f, i) => (SIGMA_DATA / spread) ** 2 * image[i]! + ((sigma * SIGMA_DATA) / spread) * f,
      );
      for (const [i, value] of wanted.entries())
        expect(Math.abs(D[n * count + i]! - value)).toBeLessThan(1e-9);
    }
  });

  test('positions that follow no rule are refused', () => {
    const { network, weights } = tinyModel(f32);
    const p = network.parameters.at(network.dit.posEmbed);
    writeWeight(f32, weights, p, randomValues(p.count, 5));
    expect(() => positionsFor(f32, network, weights, { rows: 2, columns: 3 })).toThrow(
      'its positions are not',
    );
  });
});

/** get_2d_sincos_pos_embed of the reference once more, channel by channel. */
function plainPositions(
  { rows, columns }: { rows: number; columns: number },
  dim: number,
  base: number,
  scale: number,
): Float64Array {
  return Float64Array.from({ length: rows * columns * dim }, (_, k) => {
    const [channel, token] = [k % dim, Math.floor(k / dim)];
    const alongX = channel < dim / 2;
    const [index, extent] = alongX ? [token % columns, columns] : [Math.floor(token / columns), rows];
    const place = Math.fround(Math.fround(index / (extent / base)) / scale);
    const within = channel % (dim / 2);
    const angle = place / 10000 ** ((within % (dim / 4)) / (dim / 4));
    return within < dim / 4 ? Math.sin(angle) : Math.cos(angle);
  });
}

describe('pictures', () => {
  const request = { prompt: 'a fox', negative_prompt: '', seed: 1, steps: 2, cfg_scale: 3 };

  test('of the trained size are the same, said or not; others are as wide and high as asked', async () => {
    const sampler = new Sampler(f32, tinyModel(f32), 2);
    const [plain] = await sampler.sample([request]);
    const [said] = await sampler.sample([{ ...request, size: { width: 8, height: 8 } }]);
    expect(said).toEqual(plain!);
    const [wide] = await sampler.sample([{ ...request, size: { width: 12, height: 6 } }]);
    expect([wide!.pixels!.width, wide!.pixels!.height]).toEqual([12, 6]);
    expect(encodePng(wide!.pixels!, []).length).toBeGreaterThan(100);
    expect(sampler.sample([{ ...request, size: { width: 9, height: 8 } }])).rejects.toThrow('multiples of 2');
  });

  test('the command: flag, line, record, repetition, what is skipped, and what is refused', () => {
    const drawn = sample(['a fox', '--steps', '1', '--size', '12x6', '-o', 'wide.png', '--scale', '2']);
    expect(drawn.err).toBe('12x6 is not the size of the training, 8x8: pictures may be worse\n');
    expect(drawn.records[0]).toMatchObject({ width: 24, height: 12 });
    expect(readPngText(at('wide.png'))).toMatchObject({ width: 24, height: 12 });
    sample(['--from', 'wide.png', '-o', 'wide2.png']);
    expect(readFileSync(at('wide2.png'))).toEqual(readFileSync(at('wide.png')));
    const lines = ['{"prompt": "a", "size": "6x10"}', '{"prompt": "b", "size": 7}', '{"prompt": "c"}'].join(
      '\n',
    );
    const args = ['--steps', '1', '-o', 'sizes', '--size', '4', '--skip-existing'];
    const { code, records } = sample(args, lines);
    expect(code).toBe(1);
    expect(records.map((r) => r.error ?? [r.width, r.height])).toEqual([
      [6, 10],
      'size 7x7: sides are multiples of 2 pixels. The nearest are 6x6 and 8x8',
      [4, 4],
    ]);
    const again = sample(args.slice(0, 4).concat('--skip-existing'), lines);
    expect(again.records.map((r) => r.skipped)).toEqual([true, undefined, undefined]);
    expect(again.records[2]).toMatchObject({ width: 8 });
    expect(again.err).toContain('sizes/000002-c-0.png was made with other settings');
    for (const [size, why] of [
      ['7', 'sides are multiples of 2 pixels. The nearest are 6x6 and 8x8'],
      ['8x', 'is neither N nor WxH'],
      ['80', 'that is 1600 patches, and 1024 is the most'],
    ]) {
      const refused = sample(['x', '--size', size!]);
      expect([refused.code, refused.err]).toEqual([2, expect.stringContaining(why!)]);
    }
  });

  test('--rng torch-cuda stands in record and picture and is repeated', () => {
    const drawn = sample(['a fox', '--steps', '1', '--rng', 'torch-cuda', '-o', 'cuda.png']);
    expect(drawn.records[0].rng).toBe('torch-cuda');
    sample(['--from', 'cuda.png', '-o', 'cuda2.png']);
    expect(readFileSync(at('cuda2.png'))).toEqual(readFileSync(at('cuda.png')));
    expect(sample(['a fox', '--steps', '1', '-o', 'own.png']).records[0].rng).toBeUndefined();
    expect(readFileSync(at('own.png')).subarray(-80)).not.toEqual(readFileSync(at('cuda.png')).subarray(-80));
  });
});
