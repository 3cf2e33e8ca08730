// FID's two costs: bun bench/fid.ts frechet [images] [features], bun bench/fid.ts inception [threads] [batch]
// Streamed and merged statistics beside those of one pass: bun bench/fid.ts merge [images] [features]
import { doubles, type Lapack, openLapack } from '../ffi/lapack.ts';
import { cpuBackend } from '../src/backend/cpu.ts';
import { relMax } from '../src/eval/conformance.ts';
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

let state = 1;
const random = () => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return state / 2 ** 32;
};

if (what === 'frechet') {
  const [images, features] = [first ?? 10_000, second ?? 2048];
  const lapack = await openLapack();
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
} else if (what === 'merge') {
  const [n, d] = [first ?? 10_000, second ?? 2048];
  const lapack = await openLapack();
  const x = doubles(n * d);
  for (let i = 0; i < x.length; i++) x[i] = Math.fround(Math.max(0, random() + random() - 0.8) + (i % d) / d);
  const whole = onePass(lapack, x, n, d);
  lap('one pass');
  const momentsOf = (from: number, to: number, chunk: number) => {
    const moments = new Moments(lapack, d);
    for (let at = from; at < to; at += chunk) moments.add(x.subarray(at * d, Math.min(to, at + chunk) * d));
    return moments;
  };
  const streamed = momentsOf(0, n, 8).gaussian('streamed');
  const edges = [0, 1, 300, 2900, 2907, 7000, n].filter((edge) => edge <= n);
  const [merged, ...parts] = edges.slice(1).map((end, i) => momentsOf(edges[i]!, end, 100));
  for (const part of parts) merged!.merge(part);
  lap('streamed by 8, and merged');
  for (const [name, got] of [
    ['streamed', streamed],
    ['merged', merged!.gaussian('merged')],
  ] as const) {
    const [mean, covariance] = [relMax(got.mean, whole.mean), relMax(got.covariance, whole.covariance)];
    const distance = Math.abs(frechetDistance(lapack, got, { ...whole, rows: null, d, count: n }).distance);
    console.log(`${name.padEnd(28)}mean ${mean.toExponential(1)}, covariance ${covariance.toExponential(1)}`);
    console.log(`${''.padEnd(28)}distance from one pass ${distance.toExponential(1)}`);
  }
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

/** Means over all rows, then one product of all centred rows. */
function onePass(lapack: Lapack, x: Float64Array, n: number, d: number) {
  const mean = doubles(d);
  for (let i = 0; i < x.length; i++) mean[i % d]! += x[i]! / n;
  const centred = doubles(n * d);
  for (let i = 0; i < x.length; i++) centred[i] = x[i]! - mean[i % d]!;
  const covariance = lapack.product(centred, centred, { m: d, n: d, k: n, transA: true });
  for (let i = 0; i < covariance.length; i++) covariance[i]! /= n - 1;
  return { mean, covariance };
}
