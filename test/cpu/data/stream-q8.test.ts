// Columns of 8-bit numbers in the training stream: delivered as the halves that src/io/q8.ts makes of them,
// whether a sample is read whole, in pieces, from a mapping or by byte ranges.
import { afterAll, expect, test } from 'bun:test';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ShardStream } from '../../../src/data/stream/stream.ts';
import { bytesOf, float32ToF16 } from '../../../src/io/dtype.ts';
import { MdsWriter } from '../../../src/io/mds/writer.ts';
import { fromQ8, toQ8 } from '../../../src/io/q8.ts';

const COUNT = 41;
const folder = mkdtempSync(join(tmpdir(), 'stream-q8-'));
const server = Bun.serve({
  port: 0,
  fetch(request) {
    const bytes = readFileSync(join(folder, new URL(request.url).pathname));
    const match = /^bytes=(\d+)-(\d+)$/.exec(request.headers.get('range') ?? '');
    if (!match) return new Response(bytes);
    const [begin, end] = [Number(match[1]), Number(match[2]) + 1];
    const headers = { 'content-range': `bytes ${begin}-${end - 1}/${bytes.length}` };
    return new Response(bytes.subarray(begin, end), { status: 206, headers });
  },
});
afterAll(async () => {
  await server.stop(true);
  rmSync(folder, { recursive: true, force: true });
});

const statesOf = (item: number, numbers: number) =>
  Float32Array.from({ length: numbers }, (_, i) => Math.sin(item + i * 1.7) * 10 ** (((i >> 5) % 9) - 6));

function halvesOf(values: Float32Array): Uint8Array {
  const bits = new Uint16Array(values.length);
  float32ToF16(values, bits);
  return bytesOf(bits);
}

/** Two columns of numbers of which the middle one is packed, or not, between others. */
function writeSet(name: string, numbers: number, packed: boolean, cut = 0): string {
  const states = packed ? 'caption_latents_q8' : 'caption_latents';
  const columns = { a_tail: 'bytes', [states]: 'bytes', latents_64: 'bytes', z_tail: 'bytes' };
  using writer = MdsWriter.open(join(folder, name), columns, { hashes: [], sizeLimit: 12 * numbers });
  for (let item = 0; item < COUNT; item++) {
    const values = statesOf(item, numbers);
    const whole = packed ? toQ8(values) : halvesOf(values);
    writer.write({
      a_tail: new Uint8Array(item % 3),
      [states]: whole.subarray(0, whole.length - (item === 7 ? cut : 0)),
      latents_64: Uint8Array.of(item, packed ? 1 : 0),
      z_tail: new Uint8Array(item % 5),
    });
  }
  writer.finish();
  return join(folder, name);
}

const columnsOf = (numbers: number) => [
  { column: 'latents_64', bytes: 2 },
  { column: 'caption_latents', bytes: 2 * numbers },
];

/** Every sample of the sets once, checked against what was written; which were packed. */
async function check(paths: readonly string[], numbers: number): Promise<number> {
  const count = paths.length * COUNT;
  const cache = { folder: join(folder, 'cache') };
  const sets = paths.map((path) => ({ path }));
  const stream = await ShardStream.open(sets, columnsOf(numbers), { seed: 3, window: 4, cache });
  const into = columnsOf(numbers).map(({ bytes }) => new Uint8Array(count * bytes));
  await stream.fill(into, new Float64Array(count), 0);
  const [which, states] = into as [Uint8Array, Uint8Array];
  const seen = new Set<string>();
  let packed = 0;
  for (let row = 0; row < count; row++) {
    const [item, q8] = [which[2 * row]!, which[2 * row + 1]!];
    const values = statesOf(item, numbers);
    const expected = q8 ? bytesOf(fromQ8(toQ8(values))) : halvesOf(values);
    const got = states.subarray(2 * numbers * row, 2 * numbers * (row + 1));
    expect(Buffer.compare(got, expected)).toBe(0);
    seen.add(`${q8}.${item}`);
    packed += q8;
  }
  expect(seen.size).toBe(count);
  await stream.close();
  return packed;
}

// 20,002 numbers are more than one reading of a sample in pieces; 40,004 are mapped.
test.each([1, 31, 77 * 8, 20_002, 40_004])('%p numbers a sample, packed and plain sets mixed', async (n) => {
  const sets = [writeSet(`packed-${n}`, n, true), writeSet(`plain-${n}`, n, false)];
  expect(await check(sets, n)).toBe(COUNT);
});

test('by byte ranges from a server', async () => {
  writeSet('afar', 616, true);
  expect(await check([`http://127.0.0.1:${server.port}/afar`], 616)).toBe(COUNT);
});

test('a sample with other bytes than the model takes is named', async () => {
  const path = writeSet('cut', 616, true, 1);
  expect(check([path], 616)).rejects.toThrow(
    'has 655 bytes of caption_latents_q8, the model takes 656. Prepare the set for this model',
  );
  const plain = writeSet('other', 640, true);
  expect(check([plain], 616)).rejects.toThrow('has 680 bytes of caption_latents_q8, the model takes 656');
});
