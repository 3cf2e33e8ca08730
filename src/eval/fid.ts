// FID of two sets and what stands beside it: kernel distance, precision and recall, and the remarks that a
// reader of the numbers needs.
import type { Lapack } from '../../ffi/lapack.ts';
import { EXIT, Failure } from '../io/failure.ts';
import type { FeatureRows } from './feature-rows.ts';
import { type Frechet, frechetDistance } from './frechet.ts';
import type { Gathered } from './gather.ts';
import type { Unreadable } from './image-sets.ts';
import { type Kid, type KidOptions, kernelDistance } from './kid.ts';
import type { Gaussian } from './moments.ts';
import { type PrecisionRecall, precisionRecall } from './precision-recall.ts';
import { identityOf, type Origin, type Statistics } from './statistics-file.ts';

/** One of the two sets, measured. */
export interface Side {
  readonly name: string;
  readonly gaussian: Gaussian;
  readonly rows: FeatureRows | null;
  readonly unreadable: readonly Unreadable[];
  /** Null for statistics that do not say where they come from. */
  readonly origin: Origin | null;
  readonly remarks: readonly string[];
}

/** What a reader has to know of images whose features were gathered; none at all are a Failure. */
export function remarksOnImages(name: string, { unreadable, sizes }: Gathered): string[] {
  const remarks: string[] = [];
  if (sizes.size > 1) {
    const common = [...sizes].sort((a, b) => b[1] - a[1]).slice(0, 3);
    const shown = common.map(([size, count]) => `${count} of ${size}`).join(', ');
    remarks.push(`${name}: images of ${sizes.size} sizes (${shown}), each is resized by itself`);
  }
  if (unreadable.length > 0) {
    const shown = unreadable.slice(0, 3).map(({ why }) => why);
    const more = unreadable.length > 3 ? `; and ${unreadable.length - 3} more` : '';
    remarks.push(`${name}: ${unreadable.length} left out that cannot be read (${shown.join('; ')}${more})`);
  }
  if (sizes.size === 0) {
    const none = unreadable[0];
    const why = none ? `none of its ${unreadable.length} images can be read (${none.why})` : 'has no image';
    throw new Failure({ what: name, why, fix: 'Give images that can be decoded' });
  }
  return remarks;
}

/** A set of images whose features were gathered; fewer than two usable ones are a Failure. */
export function sideOfImages(name: string, gathered: Gathered, origin: Origin): Side {
  const remarks = remarksOnImages(name, gathered);
  const { moments, rows, unreadable } = gathered;
  return { name, gaussian: moments.gaussian(name), rows, unreadable, origin, remarks };
}

export function sideOfStatistics(name: string, { gaussian, origin, float32 }: Statistics): Side {
  const remarks = origin ? [] : [`${name}: does not say which weights and which resize made it`];
  if (float32) {
    remarks.push(`${name}: its sigma was rounded to float32, which may move FID where it is nearly singular`);
  }
  return { name, gaussian, rows: null, unreadable: [], origin, remarks };
}

export interface FidOptions {
  readonly kid: KidOptions | null;
  readonly precisionRecall: boolean;
}

export interface FidResult {
  readonly frechet: Frechet;
  readonly kid: Kid | null;
  readonly precisionRecall: PrecisionRecall | null;
  /** What made the features; of the side that says it. */
  readonly origin: Origin | null;
  readonly remarks: readonly string[];
}

/** A is judged by B. Sets whose features come from other networks are a Failure. */
export function compareSides(lapack: Lapack, a: Side, b: Side, options: FidOptions): FidResult {
  checkOrigins(a, b);
  const frechet = frechetDistance(lapack, a.gaussian, b.gaussian);
  for (const [i, { name }] of [a, b].entries()) checkLeast(name, frechet.least[i] ?? 0);
  const remarks = [a, b].flatMap((side, i) => [
    ...side.remarks,
    ...remarksOn(side, frechet.ranks[i] ?? null),
  ]);
  const [one, two] = [a.rows, b.rows];
  if ((options.kid || options.precisionRecall) && !(one && two)) {
    throw new Failure({
      what: (one ? b : a).name,
      why: 'holds statistics; KID, precision and recall need the features of every image',
      fix: 'Give the images themselves',
      code: EXIT.usage,
    });
  }
  const kid = options.kid && one && two ? kernelDistance(lapack, one, two, options.kid) : null;
  const pr = options.precisionRecall && one && two ? precisionRecall(lapack, one, two) : null;
  return { frechet, kid, precisionRecall: pr, origin: a.origin ?? b.origin, remarks };
}

/** What is known of a side before its images are looked at. */
export interface Expected {
  readonly name: string;
  readonly gaussian: Pick<Gaussian, 'd'>;
  readonly origin: Origin | null;
}

/** Sides of other networks are a Failure. */
export function checkOrigins(a: Expected, b: Expected): void {
  const fix = 'Make the statistics of both with the same weights: microdiff eval stats';
  if (a.gaussian.d !== b.gaussian.d) {
    const why = `has ${a.gaussian.d} features an image, ${b.name} has ${b.gaussian.d}`;
    throw new Failure({ what: a.name, why, fix });
  }
  if (!a.origin || !b.origin) return;
  for (const key of ['weights', 'resize'] as const) {
    if (identityOf(a.origin)[key] === identityOf(b.origin)[key]) continue;
    const why = `its ${key} are "${a.origin[key]}", those of ${b.name} "${b.origin[key]}"`;
    throw new Failure({ what: a.name, why, fix });
  }
}

/** A covariance has no negative eigenvalues but those of rounding, here of float32. */
function checkLeast(what: string, least: number): void {
  if (least > -1e-5) return;
  throw new Failure({
    what,
    why: `sigma is no covariance: its smallest eigenvalue is ${least.toExponential(1)} of its largest`,
    fix: 'Make the statistics anew',
  });
}

function remarksOn({ name, gaussian }: Side, rank: number | null): string[] {
  const { count, covariance, d } = gaussian;
  let constant = 0;
  for (let i = 0; i < d; i++) if (covariance[i * (d + 1)] === 0) constant += 1;
  const remarks: string[] = [];
  // Fewer images than features, 2048 of Inception: what pytorch-fid's users are warned of.
  const few = count !== null && count <= d;
  if (few) {
    const why = 'too few for a covariance of full rank, and FID is larger the fewer there are';
    remarks.push(`${name}: ${count} images are ${why}; compare only with as many`);
  }
  const missing = rank !== null && rank < d ? d - rank : constant;
  if (missing > 0 && !few) {
    remarks.push(
      `${name}: its covariance is singular in ${missing} of ${d} directions` +
        `${constant > 0 ? ` (${constant} features never change)` : ''}; ` +
        'the value is exact, pytorch-fid adds 1e-6 to the diagonals where its root fails',
    );
  }
  return remarks;
}
