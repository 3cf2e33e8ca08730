// How the flat buffers are shared out over ranks (ZeRO, stage 1, of Rajbhandari et al. 2020): every rank owns
// one stretch of all trainable elements, keeps moments and averages of that stretch alone, and updates it.
import type { Backend, Rank, Region } from '../backend/backend.ts';
import type { Parameter, Parameters } from '../plan/params.ts';
import { encodeNumbers } from '../plan/runner.ts';
import { ALIGN } from '../plan/trace.ts';

/** The stretch [first, first + count) of one rank; rank r's begins at r count. */
export interface Share extends Rank {
  readonly first: number;
  readonly count: number;
  /** Elements of a flat buffer that is exchanged whole, and of those the trained ones. */
  readonly whole: number;
  readonly trainableEnd: number;
}

export const ALONE: Rank = { rank: 0, ranks: 1 };

/** The stretch of a rank. Alone it is all that is trained. */
export function shareOf(parameters: Parameters, { rank, ranks }: Rank): Share {
  void parameters.list;
  const { trainableEnd, end } = parameters;
  if (ranks === 1) return { rank, ranks, first: 0, count: trainableEnd, whole: end, trainableEnd };
  const count = Math.ceil(trainableEnd / ranks / ALIGN) * ALIGN;
  return { rank, ranks, first: rank * count, count, whole: Math.max(end, ranks * count), trainableEnd };
}

/** The rank whose stretch an element belongs to. */
export function ownerOf({ count }: Share, element: number): number {
  return Math.floor(element / count);
}

/** End of what a rank keeps of a kind of state: alone also the frozen parameters, behind all others. */
function endOf({ ranks, first, count }: Share): number {
  return ranks === 1 ? Number.POSITIVE_INFINITY : first + count;
}

/** Writes what a share holds of a parameter into a region that holds the share alone. */
export function writeShare(
  backend: Backend,
  region: Region,
  share: Share,
  p: Parameter,
  values: Float32Array,
): void {
  const begin = Math.max(p.base, share.first);
  const end = Math.min(p.base + p.count, endOf(share));
  if (begin >= end) return;
  const own = values.subarray(begin - p.base, end - p.base);
  backend.write(region, (begin - share.first) * backend.elemBytes.real, encodeNumbers(backend, 'real', own));
}

/** Whether a share holds any of a parameter. */
export function holds(share: Share, { base, count }: Parameter): boolean {
  return base < endOf(share) && base + count > share.first;
}
