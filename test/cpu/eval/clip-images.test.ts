// CLIP's image tower against PyTorch (test/peers/clip_visual.py prints the values), batches, resizing, files.
import { afterAll, describe, expect, test } from 'bun:test';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ClipImages } from '../../../src/eval/clip-images.ts';
import { clipScore } from '../../../src/eval/clip-score.ts';
import { uniforms } from '../../../src/eval/formula-weights.ts';
import { encodePng } from '../../../src/io/png.ts';
import { writeSafetensors } from '../../../src/io/safetensors_write.ts';
import { Parameters } from '../../../src/plan/params.ts';
import { CLASS_EMBEDDING, type ClipVisualConfig, declareClipVisual } from '../../../src/text/clip-visual.ts';
import { bothBackends } from '../op-case.ts';

const CONFIG: ClipVisualConfig = {
  ...{ side: 21, patch: 7, width: 16, heads: 2, layers: 2, hidden: 24, quickGelu: true, embed: 6 },
};
const EXPECTED = [
  [0.66086542, -0.766864266, -1.822009514, 1.951332742, -0.645858526, 0.488234128],
  [0.850662074, -0.263687152, -2.492544619, 0.465864137, -0.230048716, 0.267588855],
];

const parameters = new Parameters();
declareClipVisual(parameters, CONFIG);
const shapes = new Map(
  parameters.list.map(({ name, shape }) => [name, { name, shape, dtype: 'F32', bytes: 0 }]),
);
shapes.set(CLASS_EMBEDDING, { name: CLASS_EMBEDDING, shape: [CONFIG.width], dtype: 'F32', bytes: 0 });
const file = {
  path: 'clip.pt',
  tensors: shapes as never,
  readFloat32(name: string): Float32Array {
    const count = shapes.get(name)!.shape.reduce((a, b) => a * b, 1);
    const shift = name.includes('.ln_') && name.endsWith('weight') ? 1 : 0;
    return Float32Array.from(uniforms('', name, count), (u) => Math.fround(u - 0.5) + shift);
  },
};

function image(name: string, width = 21, height = width) {
  const data = Uint8Array.from(uniforms('', name, width * height * 3), (u) => Math.floor(256 * u));
  return { width, height, data };
}

const { f32 } = bothBackends();
const load = (batch: number, resize: 'squash' | 'shortest' = 'squash') =>
  ClipImages.load(f32, CONFIG, file, { batch, resize });
const tower = load(2);
afterAll(() => tower.free());

function expectClose(got: ArrayLike<number>, want: readonly number[]) {
  expect(got.length).toBe(want.length);
  for (const [i, v] of want.entries()) expect(Math.abs(got[i]! - v)).toBeLessThan(2e-5);
}

test("vectors are PyTorch's, in any batch", () => {
  expectClose(tower.features([image('first'), image('second')]), EXPECTED.flat());
  expectClose(tower.features([image('second')]), EXPECTED[1]!);
  expect(tower.features([image('second')])).toEqual(
    tower.features([image('first'), image('second')]).subarray(6),
  );
});

test('other sizes are squashed, or their middle is taken', () => {
  const wide = image('wide', 63, 21);
  const middle = new Uint8Array(21 * 21 * 3);
  for (let y = 0; y < 21; y++) middle.set(wide.data.subarray((y * 63 + 21) * 3, (y * 63 + 42) * 3), y * 63);
  const cut = load(1, 'shortest');
  const plain = tower.features([{ width: 21, height: 21, data: middle }]);
  expect(cut.features([wide])).toEqual(plain);
  expect(tower.features([wide])).not.toEqual(plain);
  cut.free();
});

describe('files', () => {
  test('without the tower, or of another size, are refused', () => {
    const without = { ...file, tensors: new Map([...shapes].filter(([name]) => name !== 'visual.proj')) };
    const options = { batch: 1, resize: 'squash' } as const;
    expect(() => ClipImages.load(f32, CONFIG, without as never, options)).toThrow('visual.proj is missing');
    const small = { ...CONFIG, side: 14 };
    expect(() => ClipImages.load(f32, small, file, options)).toThrow('visual.positional_embedding has shape');
  });
});

describe('CLIP score', () => {
  const set = (names: readonly string[]) => ({
    ...{ path: 'drawn/', count: names.length },
    async *images(unreadable: (bad: { name: string; why: string }) => void) {
      for (const name of names) {
        if (name === 'bad') unreadable({ name, why: 'damaged' });
        else yield image(name);
      }
    },
  });
  const texts: Readonly<Record<string, readonly number[]>> = { same: EXPECTED[0]!, opposite: [] };
  const text = (prompt: string) =>
    texts[prompt]!.length > 0 ? texts[prompt]! : EXPECTED[1]!.map((v) => -2 * v);

  test('is the mean cosine, image i with prompt i', async () => {
    const result = await clipScore(tower, text, set(['first', 'second']), ['same', 'opposite']);
    expect(result.score).toBeCloseTo(0, 4);
    expect(result.count).toBe(2);
    const one = await clipScore(tower, text, set(['first']), ['same']);
    expect(one.score).toBeCloseTo(1, 5);
  });

  test('never pairs an image with the prompt of another', async () => {
    const scored = (names: string[], prompts: string[]) => clipScore(tower, text, set(names), prompts);
    expect(scored(['bad', 'first'], ['same', 'same'])).rejects.toThrow('bad cannot be read (damaged)');
    expect(scored(['first'], ['same', 'same'])).rejects.toThrow('1 images for 2 prompts');
    expect(scored(['first', 'first'], ['same'])).rejects.toThrow('more than the 1 images');
  });
});

test('--features clip takes CLIP, not Inception', () => {
  const root = mkdtempSync(join(tmpdir(), 'clip-'));
  const path = join(root, 'clip.safetensors');
  writeSafetensors(path, [{ name: 'x', dtype: 'F32', shape: [1], data: new Float32Array(1) }]);
  writeFileSync(join(root, 'a.png'), encodePng({ ...image('first'), channels: 3 }, []));
  const main = new URL('../../../src/cli/main.ts', import.meta.url).pathname;
  const command = [process.execPath, main, 'eval', 'fid', root, root, '--features', 'clip', '--clip', path];
  const { exitCode, stderr } = Bun.spawnSync(command, { stdin: 'ignore' });
  rmSync(root, { recursive: true });
  expect(stderr.toString()).toContain('clip.safetensors: tensor visual.conv1.weight is missing');
  expect(exitCode).toBe(1);
});
