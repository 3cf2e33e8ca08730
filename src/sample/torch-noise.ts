// The noise that PyTorch draws on CUDA, on the host: what `torch.randn(shape, device='cuda')` gives for one
// picture alone after `manual_seed(seed)`.
//
// The facts (ATen/native/cuda/DistributionTemplates.h and curand's headers): Philox4x32-10 with the seed as
// its key and (draw, 0, thread, 0) as its counter; blocks of 256 threads, as many as the elements need and
// the GPU holds at once; each draw of a thread is four normals by Box-Muller, and normal k of it goes to
// element thread + threads * k. Where there are as many threads as elements, each takes the first and leaves
// the rest.

/** A generator of the initial noise: our own, or PyTorch's on CUDA. */
export const RNGS = ['philox', 'torch-cuda'] as const;

export type RngName = (typeof RNGS)[number];

/** Threads that a GPU holds at once, from which on the order of elements depends on the GPU: an H100's. */
const RESIDENT = 132 * 2048;

const BLOCK = 256;

/**
 * `count` unit normals in float32. Against a GPU's own they differ in the last digits: there sine and cosine
 * are the fast ones (2^-21 absolute), here they are rounded from float64; 4e-6 is a safe bound. `resident`:
 * threads that the GPU holds at once (processors x 2048; 1536 on consumer cards), which matters only for more
 * elements than that.
 */
export function torchCudaNormals(seed: number, count: number, resident = RESIDENT): Float32Array {
  const values = new Float32Array(count);
  const threads = Math.min(Math.ceil(count / BLOCK) * BLOCK, Math.floor(resident / BLOCK) * BLOCK);
  const key = [seed >>> 0, Math.floor(seed / 2 ** 32)] as const;
  for (let thread = 0; thread < Math.min(threads, count); thread++) {
    for (let draw = 0, first = thread; first < count; draw++, first += 4 * threads) {
      const [x, y, z, w] = philox([draw, 0, thread, 0], key);
      const four = first + threads < count ? [...boxMuller(x, y), ...boxMuller(z, w)] : boxMuller(x, y);
      for (let k = 0; k < four.length && first + k * threads < count; k++) {
        values[first + k * threads] = four[k]!;
      }
    }
  }
  return values;
}

type Four = readonly [number, number, number, number];

/** Philox4x32-10 (Salmon et al. 2011): ten rounds, the key bumped between them. */
export function philox(counter: Four, key: readonly [number, number]): Four {
  let [a, b, c, d] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const [high0, low0] = [highWord(0xd2511f53, a), Math.imul(0xd2511f53, a)];
    const [high1, low1] = [highWord(0xcd9e8d57, c), Math.imul(0xcd9e8d57, c)];
    [a, b, c, d] = [(high1 ^ b ^ k0) >>> 0, low1 >>> 0, (high0 ^ d ^ k1) >>> 0, low0 >>> 0];
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return [a, b, c, d];
}

/** The upper 32 bits of a 64-bit product. */
function highWord(a: number, b: number): number {
  const [ah, al, bh, bl] = [a >>> 16, a & 0xffff, b >>> 16, b & 0xffff];
  const low = al * bl;
  const middle = ah * bl + Math.floor(low / 2 ** 16);
  const other = al * bh + (middle % 2 ** 16);
  return ah * bh + Math.floor(middle / 2 ** 16) + Math.floor(other / 2 ** 16);
}

const { fround } = Math;
const UNIT = 2 ** -32;
const CIRCLE = fround(UNIT * fround(6.2831855));

/** Two words to two normals in float32: s sin v, s cos v. */
function boxMuller(x: number, y: number): [number, number] {
  const u = fround(fround(x) * UNIT + UNIT / 2);
  const v = fround(fround(y) * CIRCLE + CIRCLE / 2); // one rounding: the compiler fuses them
  const s = fround(Math.sqrt(fround(-2 * fround(Math.log(u)))));
  return [fround(s * fround(Math.sin(v))), fround(s * fround(Math.cos(v)))];
}
