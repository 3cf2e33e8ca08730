// Statistics of features in files: pytorch-fid's .npz (mu, sigma), read; and safetensors with the same two,
// which also say of how many images, by which network and how the images were resized.
import { doubles } from '../../ffi/lapack.ts';
import { Failure } from '../io/failure.ts';
import { readNpz } from '../io/npz.ts';
import { Safetensors } from '../io/safetensors.ts';
import { writeSafetensors } from '../io/safetensors_write.ts';
import type { Gaussian } from './moments.ts';

/** Where features come from; two sets are compared only where these are the same. */
export interface Origin {
  /** The network and its weights. */
  readonly weights: string;
  readonly resize: string;
}

/** An origin as it is compared: of a file of weights the checksum counts, and not what it is called. */
export function identityOf({ weights, resize }: Origin): Origin {
  return { weights: weights.replace(/^(inception|CLIP image tower) .+(, sha256 \w+)$/, '$1$2'), resize };
}

export interface Statistics {
  readonly gaussian: Gaussian;
  /** Null where the file does not say, as .npz files do not. */
  readonly origin: Origin | null;
  /** Whether sigma holds no more digits than float32 has. */
  readonly float32: boolean;
}

const FORMAT = 'microdiff feature statistics';

/** Whether a path is named as statistics are. */
export function isStatisticsFile(path: string): boolean {
  return /\.(npz|safetensors)$/i.test(path);
}

/** Reads either kind. Shapes that do not fit, values that are not finite, a skew sigma are Failures. */
export function readStatistics(path: string): Statistics {
  if (path.toLowerCase().endsWith('.npz')) {
    const { mu, sigma } = readNpz(path, ['mu', 'sigma']);
    return { gaussian: gaussianOf(path, mu, sigma, null), origin: null, float32: isRounded(sigma) };
  }
  using file = Safetensors.open(path);
  const read = (name: string) => ({ shape: file.entry(name).shape, values: file.readFloat64(name) });
  const { metadata } = file;
  const count = Number(metadata.get('count') ?? Number.NaN);
  const [weights, resize] = [metadata.get('weights'), metadata.get('resize')];
  const origin = weights !== undefined && resize !== undefined ? { weights, resize } : null;
  const images = Number.isSafeInteger(count) && count >= 2 ? count : null;
  const sigma = read('sigma');
  return { gaussian: gaussianOf(path, read('mu'), sigma, images), origin, float32: isRounded(sigma) };
}

/** Values of which some are not zero, and all are float32's. */
function isRounded({ values }: Numbers): boolean {
  return values.some((v) => v !== 0) && values.every((v) => v === Math.fround(v));
}

export function writeStatistics(path: string, gaussian: Gaussian, origin: Origin): void {
  const { d, mean, covariance, count } = gaussian;
  writeSafetensors(
    path,
    [
      { name: 'mu', dtype: 'F64', shape: [d], data: mean },
      { name: 'sigma', dtype: 'F64', shape: [d, d], data: covariance },
    ],
    { metadata: { format: FORMAT, ...origin, ...(count === null ? {} : { count: String(count) }) } },
  );
}

interface Numbers {
  readonly shape: readonly number[];
  readonly values: Float64Array;
}

function gaussianOf(path: string, mu: Numbers, sigma: Numbers, count: number | null): Gaussian {
  const d = mu.values.length;
  const refuse = (why: string) =>
    new Failure({ what: path, why, fix: 'Give statistics as pytorch-fid or microdiff write them' });
  // Of a single feature np.cov gives a scalar, which pytorch-fid takes for [1, 1].
  const single = d === 1 && sigma.values.length === 1;
  const fits = mu.shape.length === 1 && sigma.shape.join() === `${d},${d}`;
  if (d < 1 || !(single || fits)) {
    throw refuse(`mu [${mu.shape}] and sigma [${sigma.shape}] are not those of one set of features`);
  }
  if (![...[mu.values], ...[sigma.values]].every((list) => list.every(Number.isFinite))) {
    throw refuse('holds values that are not finite');
  }
  const largest = sigma.values.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
  const covariance = doubles(d * d);
  for (let i = 0; i < d; i++) {
    // Sums of squares less the square of the mean leave rounding below zero where a feature never changes.
    if (sigma.values[i * (d + 1)]! < -1e-6 * largest) throw refuse(`variance ${i} of sigma is negative`);
    for (let j = 0; j <= i; j++) {
      const [one, other] = [sigma.values[i * d + j]!, sigma.values[j * d + i]!];
      if (Math.abs(one - other) > 1e-6 * largest) throw refuse('sigma is not symmetric');
      covariance[i * d + j] = one;
      covariance[j * d + i] = other;
    }
  }
  const mean = doubles(d);
  mean.set(mu.values);
  return { d, count, mean, covariance, rows: null };
}
