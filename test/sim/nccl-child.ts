// One rank of the test of the stand-in NCCL: joins, adds, scatters and gathers, prints what it got as JSON.
// Arguments: rank, number of ranks, id in hexadecimal digits, and a count that differs to provoke a refusal.
import { openNative } from '../../ffi/native.ts';
import { Nccl, openNcclLibrary } from '../../ffi/nccl.ts';
import * as sim from './stand-in.ts';

const [rank, ranks] = process.argv.slice(2, 4).map(Number) as [number, number];
const id = new Uint8Array(new ArrayBuffer(128));
id.set(Buffer.from(process.argv[4]!, 'hex'));
const extra = rank === 0 ? Number(process.argv[5] ?? 0) : 0;

const cuda = sim.freshCuda();
const nccl = new Nccl(openNcclLibrary([`${sim.FOLDER}/libnccl.so.2`]));
const group = nccl.join(await openNative(), id, rank, ranks);
const stream = cuda.streamCreate();

const count = 300_000; // more than one piece
const send = sim.onDevice(
  cuda,
  sim.range(count * ranks + extra).map((i) => (i % 1000) + rank),
);
const [sum, share] = [cuda.alloc(4 * (count + extra)), cuda.alloc(4 * count)];
const all = cuda.alloc(4 * count * ranks);
group.allReduce(send, sum, count + extra, 'f32', 'sum', stream);
group.reduceScatter(send, share, count, 'f32', 'mean', stream);
group.allGather(share, all, count, 'f32', stream);
const halves = cuda.alloc(8);
cuda.toDevice(halves, Uint16Array.of(0x3f80, 0x4000, 0xbf80, 0)); // 1, 2, -1, 0 as bf16
group.allReduce(halves, halves, 4, 'bf16', 'sum', stream);
const status = sim.statusOf(() => cuda.streamSynchronize(stream));
if (status !== 0) {
  console.log(JSON.stringify({ status }));
} else {
  const gathered = sim.fromDevice(cuda, all, count * ranks);
  const bf16 = new Uint16Array(4);
  cuda.toHost(bf16, halves);
  group.destroy();
  const places = [0, 1, 262_144, count - 1];
  const sums = sim.fromDevice(cuda, sum, count);
  console.log(
    JSON.stringify({
      sums: places.map((i) => sums[i]),
      gathered: [0, count, count * ranks - 1].map((i) => gathered[i]),
      bf16: [...bf16],
    }),
  );
}
