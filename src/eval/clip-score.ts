// CLIP score (Hessel et al. 2021, arXiv 2104.08718, without its factor of 2.5): the cosine between an image
// and its prompt in CLIP's space, averaged over a set. Negative cosines count as they are.
import { Failure } from '../io/failure.ts';
import type { ClipEncoder } from '../sample/clip-encoder.ts';
import type { ClipTokenizer } from '../text/bpe.ts';
import type { Extractor } from './gather.ts';
import type { ImageSet } from './image-sets.ts';

export interface ClipScore {
  readonly score: number;
  /** Of the mean, 95 % (normal approximation). */
  readonly ci95: readonly [number, number];
  readonly count: number;
}

/** Vectors of texts, one at a time. */
export function textVectors(
  encoder: Pick<ClipEncoder, 'length' | 'pooled'>,
  tokenizer: ClipTokenizer,
): (text: string) => ArrayLike<number> {
  return (text) => {
    const tokens = new Int32Array(encoder.length);
    tokenizer.encodeInto(text, tokens);
    return encoder.pooled(tokens);
  };
}

/** Image i belongs to prompt i: an image that cannot be read, or another number of them, is a Failure. */
export async function clipScore(
  images: Extractor,
  text: (prompt: string) => ArrayLike<number>,
  set: ImageSet,
  prompts: readonly string[],
  onImages: (done: number) => void = () => {},
): Promise<ClipScore> {
  const scores: number[] = [];
  const uneven = (why: string) =>
    new Failure({ what: set.path, why, fix: 'Give as many images as prompts, in the same order' });
  const refuse = ({ name, why }: { name: string; why: string }): never => {
    throw uneven(`${name} cannot be read (${why}), and what follows would belong to other prompts`);
  };
  for await (const image of set.images(refuse)) {
    const prompt = prompts[scores.length];
    if (prompt === undefined) throw uneven(`has more than the ${prompts.length} images of the prompts`);
    scores.push(cosine(images.features([image]), text(prompt)));
    onImages(scores.length);
  }
  const n = scores.length;
  if (n !== prompts.length) throw uneven(`has ${n} images for ${prompts.length} prompts`);
  const score = scores.reduce((sum, v) => sum + v, 0) / n;
  const variance = scores.reduce((sum, v) => sum + (v - score) ** 2, 0) / Math.max(1, n - 1);
  const half = 1.96 * Math.sqrt(variance / n);
  return { score, ci95: [score - half, score + half], count: n };
}

function cosine(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let [ab, aa, bb] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    ab += a[i]! * b[i]!;
    aa += a[i]! ** 2;
    bb += b[i]! ** 2;
  }
  return ab / Math.sqrt(aa * bb);
}
