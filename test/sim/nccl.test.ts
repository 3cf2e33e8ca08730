// The stand-in NCCL: one rank, and several as processes over shared memory.
import { expect, test } from 'bun:test';
import { Nccl, openNcclLibrary } from '../../ffi/nccl.ts';
import { openNative } from '../../ffi/native.ts';
import * as sim from './stand-in.ts';

/** What each rank printed. */
async function run(ranks: number, extra = 0): Promise<unknown[]> {
  const nccl = new Nccl(openNcclLibrary([`${sim.FOLDER}/libnccl.so.2`]));
  const id = Buffer.from(nccl.uniqueId()).toString('hex');
  const children = Array.from({ length: ranks }, (_, rank) =>
    Bun.spawn([process.execPath, 'test/sim/nccl-child.ts', ...[rank, ranks, id, extra].map(String)], {
      stdout: 'pipe',
    }),
  );
  const texts = await Promise.all(children.map((child) => new Response(child.stdout).text()));
  return texts.map((text) => JSON.parse(text));
}

for (const ranks of [1, 3]) {
  test(`${ranks} of ${ranks} ranks add, scatter and gather`, async () => {
    const count = 300_000;
    const others = (ranks * (ranks - 1)) / 2;
    const expected = {
      sums: [0, 1, 262_144, count - 1].map((i) => ranks * (i % 1000) + others),
      gathered: [0, count, count * ranks - 1].map((i) => (i % 1000) + others / ranks),
      bf16: [1, 2, -1, 0].map((x) => new Uint32Array(Float32Array.of(ranks * x).buffer)[0]! >>> 16),
    };
    if (ranks === 1) expected.gathered[1] = undefined as never; // there is no second share
    expect(JSON.parse(JSON.stringify(await run(ranks)))).toEqual(
      JSON.parse(JSON.stringify(Array(ranks).fill(expected))),
    );
  });
}

test('ranks that call with different sizes all fail', async () => {
  expect(await run(2, 1)).toEqual([{ status: 719 }, { status: 719 }]);
});

test.each([true, false])('what is sent on a branch and written by another is noticed: %p', async (early) => {
  const cuda = sim.freshCuda();
  const nccl = new Nccl(openNcclLibrary([`${sim.FOLDER}/libnccl.so.2`]));
  const group = nccl.join(await openNative(), nccl.uniqueId(), 0, 1);
  const scale = sim.kernelsOf(cuda, 'broken')('good_scale');
  const [stream, side] = [cuda.streamCreate(), cuda.streamCreate('first')];
  const [fork, join] = [cuda.eventCreate(false), cuda.eventCreate(false)];
  const [x, y] = [sim.onDevice(cuda, [1, 2]), sim.onDevice(cuda, [0, 0])];
  const write = (by: number) => sim.launch(cuda, scale, [x, y, 2, { real: by }], { stream });
  cuda.beginCapture(stream, 'thread-local');
  write(2);
  if (!early) write(3);
  cuda.eventRecord(fork, stream);
  cuda.streamWaitEvent(side, fork);
  group.reduce(y, y, 2, 'f32', 'sum', 0, side);
  if (early) write(3); // the last writer comes after the bucket was sent
  cuda.eventRecord(join, side);
  cuda.streamWaitEvent(stream, join);
  write(4);
  const graph = cuda.graphInstantiate(cuda.endCapture(stream));
  const before = sim.complaints();
  cuda.graphLaunch(graph, stream);
  cuda.streamSynchronize(stream);
  expect(sim.complaints() - before).toBe(early ? 1 : 0);
  if (early) expect(sim.message()).toMatch(/what is received: its buffer was written by another branch/);
  expect(sim.fromDevice(cuda, y, 2)).toEqual([4, 8]);
});
