// The command eval fidelity on a model with made-up weights: what it prints, and what it refuses.
import { afterAll, expect, test } from 'bun:test';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { saveModel } from '../../../src/sample/model-file.ts';
import { bothBackends } from '../op-case.ts';
import { tinyModel } from '../sample/tiny-model.ts';

const MAIN = join(import.meta.dir, '../../../src/cli/main.ts');
const folder = mkdtempSync(join(tmpdir(), 'microdiff-fidelity-'));
afterAll(() => rmSync(folder, { recursive: true }));

function evaluate(source: string, ...args: string[]) {
  const { f32 } = bothBackends();
  const { network, weights, recipe } = tinyModel(f32, 'nano', `[[data.source]]\n${source}`);
  const path = join(folder, 'm.safetensors');
  const from = { recipe, version: '0.0.0', step: 9, data: null };
  saveModel(path, { backend: f32, parameters: network.parameters, weights: weights.master }, from);
  const words = [MAIN, 'eval', 'fidelity', '-m', path, '--steps', '1', ...args];
  const { exitCode, stdout, stderr } = Bun.spawnSync([process.execPath, ...words]);
  return { code: exitCode, out: stdout.toString(), err: stderr.toString() };
}

const emoji = 'name = "emoji"\nsubset = "quickstart"\n';

test('--json: the share for learnt and for held-out pairs, and the settings', () => {
  const { code, out } = evaluate(emoji, '--count', '20', '--cfg-scale', '2', '--json');
  const { seconds, ...result } = JSON.parse(out);
  expect(code).toBe(0);
  expect(seconds).toBeGreaterThan(0);
  expect(result).toEqual({
    top1: expect.any(Number),
    count: 20,
    held_out: { top1: expect.any(Number), count: expect.any(Number) },
    model: join(folder, 'm.safetensors'),
    step: 9,
    steps: 1,
    cfg_scale: 2,
    seed: 0,
    device: 'cpu',
  });
  // A model of made-up weights knows nothing.
  expect(result.top1).toBeLessThan(0.5);
});

test('without --json a line for each set, and what the pictures were made with', () => {
  const { out } = evaluate(emoji, '--count', '4');
  expect(out).toMatch(
    /^learnt pairs {4}top1 \d\.\d\d of 4\nheld-out pairs {2}top1 \d\.\d\d of \d+\nmodel +.*1 steps.*\n$/,
  );
});

test('drawn shapes: exact labels', () => {
  const both = `${emoji}[[data.source]]\nname = "shapes"`;
  const { out } = evaluate(both, '--count', '2', '--only', 'shapes', '--json');
  const { shapes, top1, count } = JSON.parse(out);
  expect(top1).toBeUndefined();
  expect(count).toBe(2);
  expect(Object.keys(shapes)).toEqual(['colour', 'shape', 'relation', 'all', 'count']);
  expect(shapes.all).toBe(0);
  const page = evaluate('name = "shapes"\n', '--count', '1').out;
  expect(page).toMatch(/^drawn shapes {4}colour \d.*, shape .*, relation .*, all 0\.00 of 1\nmodel /);
});

test('a model of other things is refused', () => {
  const { code, err } = evaluate('name = "shapes"\n', '--only', 'emoji');
  expect(code).toBe(1);
  expect(err).toContain('fidelity: the model was not trained on emoji. Use a model whose recipe has');
});
