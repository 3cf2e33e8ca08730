// The stand-in NCCL: one rank, and several as processes over shared memory.
import { expect, test } from 'bun:test';
import { Nccl, openNcclLibrary } from '../../ffi/nccl.ts';
import { FOLDER } from './stand-in.ts';

/** What each rank printed. */
async function run(ranks: number, extra = 0): Promise<unknown[]> {
  const nccl = new Nccl(openNcclLibrary([`${FOLDER}/libnccl.so.2`]));
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
