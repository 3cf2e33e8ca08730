// GPUs that a run can be planned for, and how long a plan would take on one: a roofline, not a measurement.
import type { ElemBytes } from '../backend/backend.ts';
import { EXIT, Failure } from '../io/failure.ts';
import { type Node, operandBytes } from '../plan/op.ts';
import { cols, rows } from '../plan/tensor.ts';
import { nearest } from '../recipe/nearest.ts';

/** What a GPU is sold for: makers' data sheets, dense bfloat16 with float32 sums, without sparsity. */
export interface Gpu {
  readonly name: string;
  readonly tflops: number;
  /** Bytes of memory, and bytes per second. */
  readonly memory: number;
  readonly bandwidth: number;
  readonly multiprocessors: number;
  /** Bytes per second between the GPUs of a box, as collective operations reach them. */
  readonly link: number;
}

function gpu(
  name: string,
  tflops: number,
  gigabytes: number,
  terabytesPerS: number,
  multiprocessors: number,
): Gpu {
  const link =
    name.includes('SXM') || name.startsWith('B') ? (name.startsWith('A100') ? 230e9 : 380e9) : 20e9;
  const [memory, bandwidth] = [gigabytes * 1e9, terabytesPerS * 1e12];
  return { name, tflops, memory, bandwidth, multiprocessors, link };
}

export const GPUS: Readonly<Record<string, Gpu>> = {
  h100: gpu('H100 SXM', 989, 80, 3.35, 132),
  h200: gpu('H200 SXM', 989, 141, 4.8, 132),
  'h100-pcie': gpu('H100 PCIe', 756, 80, 2, 114),
  b200: gpu('B200', 2250, 180, 8, 148),
  a100: gpu('A100 SXM 80 GB', 312, 80, 2.04, 108),
  'a100-40': gpu('A100 SXM 40 GB', 312, 40, 1.56, 108),
  l40s: gpu('L40S', 362, 48, 0.864, 142),
  a6000: gpu('RTX A6000', 155, 48, 0.768, 84),
  rtx5090: gpu('RTX 5090', 209, 32, 1.79, 170),
  rtx4090: gpu('RTX 4090', 165, 24, 1.01, 128),
  rtx3090: gpu('RTX 3090', 71, 24, 0.936, 82),
};

export interface Machine {
  readonly gpu: Gpu;
  readonly count: number;
}

/** `h100x8`, `h100`, `rtx4090x2`: a GPU of the table and how many of it. */
export function machineOf(text: string): Machine {
  const lower = text.toLowerCase();
  // A name may end like a number of GPUs: rtx4090.
  const [, several, number] = Object.hasOwn(GPUS, lower) ? [] : (/^(.+)x(\d+)$/.exec(lower) ?? []);
  const [name, count] = [several ?? lower, number ?? '1'];
  const found = Object.hasOwn(GPUS, name) ? GPUS[name] : undefined;
  if (found && Number(count) >= 1 && Number(count) <= 65536) return { gpu: found, count: Number(count) };
  const names = Object.keys(GPUS);
  const near = nearest(name, names);
  const fix = near && !found ? `Did you mean ${near}?` : `Known: ${names.join(', ')}; eight of one: h100x8`;
  throw new Failure({ what: `--gpu ${text}`, why: 'is no GPU that is known', fix, code: EXIT.usage });
}

/** Shares of what a GPU is sold for that good kernels reach: H100, large products 800 of 989 TFLOP/s. */
const REACHED = { gemm: 0.81, attention: 0.32, bandwidth: 0.84 };
/** Seconds that the shortest kernel of a graph takes. */
const SHORTEST = 2e-6;
/** Rows and columns of the tiles that products are cut into; the better one is taken. */
const TILES = [
  [128, 256],
  [128, 128],
  [64, 128],
] as const;

/** Seconds of one run of these nodes. What is sent beside them counts where it ends after them. */
export function modelledSeconds(nodes: readonly Node[], gpu: Gpu, elemBytes: ElemBytes): number {
  let [computed, sent] = [0, 0];
  for (const node of nodes) {
    if (!node.op.beside) computed += nodeSeconds(node, gpu, elemBytes);
    else sent = Math.max(sent, computed) + operandBytes(node, elemBytes) / gpu.link;
  }
  return Math.max(computed, sent);
}

function nodeSeconds(node: Node, gpu: Gpu, elemBytes: ElemBytes): number {
  const bytes = (node.op.bytes ?? operandBytes)(node, elemBytes) / (gpu.bandwidth * REACHED.bandwidth);
  const { products } = node.op;
  if (!products) return Math.max(SHORTEST, bytes);
  const rate = gpu.tflops * 1e12 * REACHED[products];
  const share = products === 'gemm' ? tileShare(node, gpu) : 1;
  return Math.max(SHORTEST, bytes, node.op.flops(node) / (rate * share));
}

/** Seconds of large products. */
export function productSeconds(flops: number, gpu: Gpu): number {
  return flops / (gpu.tflops * 1e12 * REACHED.gemm);
}

/**
 * Share of the multiprocessors' work that is part of the result: the rest is lost in edges and last waves.
 */
function tileShare({ outputs: [c], attrs: { batch = 1 } }: Node, gpu: Gpu): number {
  if (!c) return 1;
  const [M, N] = [rows(c) / batch, cols(c)];
  const shares = TILES.map(([m, n], i) => {
    const tiles = batch * Math.ceil(M / m) * Math.ceil(N / n);
    const waves = Math.ceil(tiles / gpu.multiprocessors);
    // Smaller tiles load more for each product.
    return ((batch * M * N) / (waves * gpu.multiprocessors * m * n)) * [1, 0.9, 0.75][i]!;
  });
  return Math.max(...shares);
}
