// Training by two ranks on stand-in GPUs and the stand-in NCCL, collective operations in graphs: beside one
// GPU by its losses and by the checkpoint that both write together.
import { afterAll, expect, test } from 'bun:test';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Nccl, openNcclLibrary } from '../../ffi/nccl.ts';
import { Safetensors } from '../../src/io/safetensors.ts';
import { Checkpoints } from '../../src/train/checkpoint.ts';
import { standInGpu } from './gpu.ts';
import { FOLDER } from './stand-in.ts';
import { steps, tiny, trainerOn } from './train-case.ts';

const folder = mkdtempSync(join(tmpdir(), 'microdiff-ranks-'));
afterAll(() => rmSync(folder, { recursive: true }));

const RANKS = 2;
const STEPS = 2;

interface Told {
  readonly losses: number[];
  readonly norms: number[];
  readonly agreed: number[];
  readonly lost: string;
  readonly graphs: string[];
  readonly complaints: [number, string];
}

/** `images` of a pass of each rank; 0: all of a step. */
async function together(run: string, precision: string, images: number, ...way: string[]): Promise<Told[]> {
  const id = Buffer.from(new Nccl(openNcclLibrary([`${FOLDER}/libnccl.so.2`])).uniqueId()).toString('hex');
  const children = Array.from({ length: RANKS }, (_, rank) => {
    const words = [rank, RANKS, id, precision, STEPS, join(folder, run), images, ...way].map(String);
    return Bun.spawn([process.execPath, 'test/sim/ranks-child.ts', ...words], { stdout: 'pipe' });
  });
  return Promise.all(children.map(async (child) => JSON.parse(await child.stdout.text())));
}

for (const [precision, images, bounds] of [
  ['fp32', 0, { loss: 2e-6, norm: 1e-5, state: 1e-4 }],
  ['bf16', 1, { loss: 5e-4, norm: 0.02, state: 2e-3 }],
] as const) {
  test(`${precision}: losses, norms, and the checkpoint of two ranks beside those of one`, async () => {
    const both = await together(precision, precision, images, 'graph', 'forward');
    const gpu = await standInGpu({ precision });
    const trainer = await trainerOn(gpu, tiny());
    const want = await steps(trainer, STEPS);
    const recipe = tiny();
    const alone = new Checkpoints(join(folder, `${precision}-alone`));
    alone.open();
    const state = { step: STEPS, images: 4 * STEPS, seconds: 1, lossSum: 0, lossCount: 0, data: null };
    alone.save(gpu, trainer, state, { recipe, version: '0.0.0', data: null }, recipe.train);
    for (const { losses, norms, agreed, lost, graphs, complaints } of both) {
      for (const [i, { loss, gradNorm }] of want.entries()) {
        expect(Math.abs(losses[i]! / loss - 1)).toBeLessThan(bounds.loss);
        expect(Math.abs(norms[i]! / gradNorm - 1)).toBeLessThan(bounds.norm);
      }
      expect(agreed).toEqual([3, 10]);
      expect(lost).toMatch(/^rank [01]: is gone/);
      expect(complaints).toEqual([0, '']);
      // Passes but the last send nothing; in that one reduces begin on another stream behind kernels of the
      // first one, which go on between them and end together with them. The update has none.
      const [last = '', update = ''] = graphs.slice(images === 0 ? 0 : 1);
      expect(last).toMatch(/^(K|EwrK*)+eW$/);
      expect(last.match(/rK{3}/g)!.length).toBeGreaterThan(10);
      for (const other of [update, ...graphs.slice(0, images)]) expect(other).toMatch(/^K+$/);
    }
    expect(both[0]!.losses).toEqual(both[1]!.losses);
    // Each file of the two: weights and averages a step of Adam apart at most, moments within rounding.
    for (const file of ['model', 'ema', 'optimizer']) {
      const path = (run: string) => join(folder, run, 'checkpoints', 'step-00000002', `${file}.safetensors`);
      using a = Safetensors.open(path(precision));
      using b = Safetensors.open(path(`${precision}-alone`));
      expect([...a.tensors.keys()]).toEqual([...b.tensors.keys()]);
      const far = [...a.tensors.keys()].map((name) => {
        const [x, y] = [a.readFloat32(name), b.readFloat32(name)];
        return x.reduce((most, value, i) => Math.max(most, Math.abs(value - y[i]!)), 0);
      });
      expect(Math.max(...far)).toBeLessThan(bounds.state);
    }
    // And one GPU goes on from what two have written.
    const later = await trainerOn(gpu, recipe);
    new Checkpoints(join(folder, precision)).load(gpu, later, 'step-00000002');
    const [next, same] = [await later.runStep(), await trainer.runStep()];
    expect(Math.abs(next.loss / same.loss - 1)).toBeLessThan(bounds.loss);
    gpu.close();
  });
}

test('branches in any order, and launch after launch: the same bits', async () => {
  const state = (run: string) =>
    ['model', 'ema', 'optimizer'].map((file) =>
      Bun.file(join(folder, run, 'checkpoints', 'step-00000002', `${file}.safetensors`)).bytes(),
    );
  const want = await Promise.all(state('fp32'));
  for (const [way, order] of [
    ['graph', 'reverse'],
    ['eager', 'forward'],
  ] as const) {
    for (const { complaints } of await together(`${way}-${order}`, 'fp32', 0, way, order)) {
      expect(complaints).toEqual([0, '']);
    }
    expect(await Promise.all(state(`${way}-${order}`))).toEqual(want);
  }
});
