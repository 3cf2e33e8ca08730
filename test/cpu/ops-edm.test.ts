// EDM: coefficients, noising, denoiser, masked loss with its gradient, guidance; timestep sinusoids.
import { describe, test } from 'bun:test';
import { addNoise, denoise, edmCoefficients, edmLoss, guide } from '../../src/plan/ops/edm.ts';
import { timestepEmbedding } from '../../src/plan/ops/embed.ts';
import { columns } from '../../src/plan/tensor.ts';
import { checkOp, type InputSpec, randomInput } from './op-case.ts';

const [N, Ch, S, p] = [3, 3, 6, 2];
const [M, G, P] = [Ch * S * S, S / p, Ch * p * p];
const SD = 0.9;
const SIGMA = [0.002, 0.7, 80].map(Math.fround);
const real = (input: InputSpec): InputSpec => ({ ...input, elem: 'real', fixed: true });
const sigma = real({ shape: [N], values: SIGMA });
const image = (seed: number) => real(randomInput([N, Ch, S, S], seed));

test('coefficients', () => {
  checkOp({
    forwardOnly: true,
    inputs: { sigma },
    build: ({ sigma }) => {
      const { cSkip, cOut, cIn, cNoise } = edmCoefficients(sigma!, SD);
      return [cSkip, cOut, cIn, cNoise];
    },
    reference: () => [
      SIGMA.map((s) => SD ** 2 / (s ** 2 + SD ** 2)),
      SIGMA.map((s) => (s * SD) / Math.sqrt(s ** 2 + SD ** 2)),
      SIGMA.map((s) => 1 / Math.sqrt(s ** 2 + SD ** 2)),
      SIGMA.map((s) => Math.log(s) / 4),
    ],
  });
});

test('noising and denoiser', () => {
  checkOp({
    forwardOnly: true,
    inputs: { x: image(1), F: image(2), sigma },
    build: ({ x, F, sigma }) => {
      const { cSkip, cOut } = edmCoefficients(sigma!, SD);
      return [addNoise(x!, F!, sigma!), denoise(F!, x!, cSkip, cOut)];
    },
    reference: ({ x, F }) => [
      x!.map((v, i) => v + F![i]! * SIGMA[Math.floor(i / M)]!),
      x!.map((v, i) => {
        const s = SIGMA[Math.floor(i / M)]!;
        return (SD ** 2 * v) / (s ** 2 + SD ** 2) + ((s * SD) / Math.sqrt(s ** 2 + SD ** 2)) * F![i]!;
      }),
    ],
  });
});

describe('loss', () => {
  const IDS = [4, 0, 8, 3, 1, 2, 7, 5];
  /** As the reference has it: squared error of whole images, then the mean over the kept patches. */
  const loss =
    (K: number, ids: number[] | null, width: number, from: number) => (v: Record<string, Float64Array>) =>
      SIGMA.slice(0, N).map((s, n) => {
        let sum = 0;
        for (let k = 0; k < K; k++) {
          const t = ids ? ids[n * K + k]! : k;
          for (let e = 0; e < P; e++) {
            const [c, j, i] = [e % Ch, Math.floor(e / Ch) % p, Math.floor(e / Ch / p)];
            const at = ((n * Ch + c) * S + Math.floor(t / G) * p + i) * S + (t % G) * p + j;
            const out = (s * SD) / Math.sqrt(s ** 2 + SD ** 2);
            const D =
              (SD ** 2 / (s ** 2 + SD ** 2)) * v.xn![at]! + out * v.F![(n * K + k) * width + from + e]!;
            sum += (D - v.x0![at]!) ** 2;
          }
        }
        return (((s ** 2 + SD ** 2) / (s * SD) ** 2) * sum) / (K * P);
      });

  test('over all patches', () => {
    checkOp({
      inputs: { F: randomInput([N, G * G, P], 3), x0: image(4), xn: image(5), sigma },
      build: ({ F, x0, xn, sigma }) => [edmLoss(F!, x0!, xn!, sigma!, null, SD, p)],
      reference: (v) => [loss(G * G, null, P, 0)(v)],
    });
  });

  test('over kept patches, tokens a strided view that something else reads, too', () => {
    const ids = [...IDS, 6, 0, 8, 3];
    checkOp({
      inputs: {
        F: randomInput([N, 4, P + 3], 6),
        x0: image(7),
        xn: image(8),
        sigma,
        ids: { shape: [N, 4], values: ids, elem: 'i32' },
      },
      build: ({ F, x0, xn, sigma, ids }) => {
        const tokens = columns(F!, 2, P + 2);
        const once = edmLoss(tokens, x0!, xn!, sigma!, ids!, SD, p);
        return [once, edmLoss(tokens, xn!, x0!, sigma!, ids!, SD, p)];
      },
      reference: (v) => [loss(4, ids, P + 3, 2)(v)],
    });
  });
});

test('guidance, one scale and a scale a pair', () => {
  const scales = [1, 5, 0];
  checkOp({
    forwardOnly: true,
    inputs: { F: real(randomInput([2 * N, Ch, S, S], 9)), scales: real({ shape: [N], values: scales }) },
    build: ({ F, scales }) => [guide(F!, 1.5), guide(F!, scales!)],
    reference: ({ F }) => {
      const guided = (scale: (n: number) => number) =>
        Array.from({ length: N * M }, (_, i) => {
          const [c, u] = [F![i]!, F![N * M + i]!];
          return u + scale(Math.floor(i / M)) * (c - u);
        });
      return [guided(() => 1.5), guided((n) => scales[n]!)];
    },
  });
});

test('timestep sinusoids: cosines, then sines', () => {
  const [values, half] = [[0, -1.55, 1.1, 1000].map(Math.fround), 7];
  checkOp({
    forwardOnly: true,
    inputs: { t: real({ shape: [4], values }) },
    build: ({ t }) => [timestepEmbedding(t!, 2 * half)],
    reference: () => [
      values.flatMap((t) => {
        const angles = Array.from({ length: half }, (_, i) => t * Math.exp((-Math.log(10000) * i) / half));
        return [...angles.map(Math.cos), ...angles.map(Math.sin)];
      }),
    ],
  });
});
