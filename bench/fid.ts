// FID's two costs: bun bench/fid.ts frechet [images] [features], bun bench/fid.ts inception [threads] [batch]
import { openLapack } from '../ffi/lapack.ts';
import { cpuBackend } from '../src/backend/cpu.ts';
import { formulaFile } from '../src/eval/formula-weights.ts';
import { frechetDistance } from '../src/eval/frechet.ts';
import { InceptionNetwork } from '../src/eval/inception.ts';
import { Moments } from '../src/eval/moments.ts';
import { stateDict } from '../src/inception/fold.ts';
import { declareInception } from '../src/inception/network.ts';

const [what = 'frechet', ...numbers] = process.argv.slice(2);
const [first, second] = numbers.map(Number);

/** Wall clock and processor seconds since the last call. */
let began = { wall: performance.now(), cpu: process.cpuUsage() };
function lap(name: string, per = 1): void {
  const { user, system } = process.cpuUsage(began.cpu);
  const wall = (performance.now() - began.wall) / 1000;
  const cpu = (user + system) / 1e6;
  console.log(`${name.padEnd(28)}${(wall / per).toFixed(3)} s, processor ${(cpu / per).toFixed(3)} s`);
  began = { wall: performance.now(), cpu: process.cpuUsage() };
}

if (what === 'frechet') {
  const [images, features] = [first ?? 10_000, second ?? 2048];
  const lapack = await openLapack();
  let state = 1;
  const random = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  const chunk = new Float32Array(100 * features);
  const gaussians = [0, 0.1].map((shift) => {
    const moments = new Moments(lapack, features);
    for (let done = 0; done < images; done += 100) {
      for (let i = 0; i < chunk.length; i++) chunk[i] = Math.max(0, random() + random() - 0.8 + shift);
      moments.add(chunk);
    }
    return moments.gaussian('made up');
  });
  lap(`2 x ${images} x ${features}: statistics`);
  const { distance, method } = frechetDistance(lapack, gaussians[0]!, gaussians[1]!);
  lap('distance');
  console.log(`${distance} by ${method}; ${(process.resourceUsage().maxRSS / 2 ** 20).toFixed(2)} GiB`);
} else {
  const backend = await cpuBackend(first ?? 0);
  const batch = second ?? 8;
  const weights = formulaFile(stateDict(declareInception()), { salt: '', gain: 1.6 });
  const network = InceptionNetwork.load(backend, weights, { batch });
  const image = { width: 256, height: 256, data: new Uint8Array(256 * 256 * 3).map((_, i) => i * 31) };
  const images = Array.from({ length: batch }, () => image);
  network.features(images);
  lap('load and first batch');
  for (let round = 0; round < 3; round++) {
    network.features(images);
    lap('an image', batch);
  }
  const times = new Map<string, number>();
  for (const { name, ns } of network.timed()) times.set(name, (times.get(name) ?? 0) + ns / 1e6 / batch);
  for (const [name, ms] of times) console.log(`${name.padEnd(28)}${ms.toFixed(1)} ms an image`);
}
