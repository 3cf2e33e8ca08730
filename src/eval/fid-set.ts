// Conformance of FID with a folder of golden data: distances, statistics, files of statistics.
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Lapack } from '../../ffi/lapack.ts';
import { Failure } from '../io/failure.ts';
import { Safetensors } from '../io/safetensors.ts';
import { attempt, Group, type GroupResult, maxAbs, relMax } from './conformance.ts';
import { frechetDistance } from './frechet.ts';
import { JsonObject } from './json-file.ts';
import { type Gaussian, Moments } from './moments.ts';
import { isStatisticsFile, readStatistics } from './statistics-file.ts';

/** What each kind of number may be off by (golden README of this part). */
export const FID_BOUNDS = {
  /** |a - b| / (1 + |b| / 100) of exact distances: 1e-6 + 1e-8 |b|. */
  exact: 1e-6,
  /** |a - b| of distances from covariances that are singular, and of all from pytorch-fid's own values. */
  singular: 1e-4,
  /** Means and covariances, merged ones too: max |a - b| / max |b|. */
  statistics: 1e-9,
};

const FRECHET = 'frechet.json';

/** The groups of distances and statistics of a folder, as they are done. */
export function* verifyDistances(dir: string, lapack: Lapack): Generator<GroupResult> {
  if (existsSync(join(dir, FRECHET))) yield* attempt('frechet', () => checkFrechet(dir, lapack));
  const files = readdirSync(dir).filter((file) => file.startsWith('stats') && isStatisticsFile(file));
  if (files.length > 0) yield* attempt('statistics files', () => [checkFiles(dir, files.sort())]);
}

function checkFrechet(dir: string, lapack: Lapack): (GroupResult | null)[] {
  const groups = {
    features: new Group('frechet of features', FID_BOUNDS.exact),
    covariances: new Group('frechet of covariances', FID_BOUNDS.exact),
    singular: new Group('frechet of singular covariances', FID_BOUNDS.singular),
    peer: new Group('frechet as pytorch-fid', FID_BOUNDS.singular),
    statistics: new Group('mean and covariance', FID_BOUNDS.statistics),
    merged: new Group('mean and covariance, merged', FID_BOUNDS.statistics),
  };
  using file = Safetensors.open(join(dir, FRECHET.replace('json', 'safetensors')));
  for (const [name, expected] of JsonObject.read(join(dir, FRECHET)).objects()) {
    if (!file.tensors.has(`${name}.x1`) || !file.tensors.has(`${name}.x2`)) continue;
    const [a, b] = [1, 2].map((k) => gaussianOf(lapack, file, `${name}.x${k}`)) as [Gaussian, Gaussian];
    const exact = expected.get('fid_exact');
    const byRows = frechetDistance(lapack, a, b).distance;
    const byCovariance = frechetDistance(lapack, { ...a, rows: null }, { ...b, rows: null });
    if (typeof exact === 'number') {
      const error = (v: number) => Math.abs(v - exact);
      groups.features.add(error(byRows) / (1 + Math.abs(exact) / 100), name);
      const group = isSingular(lapack, a) || isSingular(lapack, b) ? groups.singular : groups.covariances;
      const scale = group === groups.singular ? 1 : 1 + Math.abs(exact) / 100;
      group.add(error(byCovariance.distance) / scale, name);
    }
    const peer = expected.get('fid_pytorch_fid');
    // Where pytorch-fid added its eps, its value is another one; the exact one is compared above.
    if (typeof peer === 'number' && expected.get('eps_path') !== true)
      groups.peer.add(Math.abs(byRows - peer), name);
    for (const [k, got] of [a, b].entries()) {
      const mu = `${name}.mu${k + 1}`;
      if (!file.tensors.has(mu)) continue;
      const [mean, covariance] = [file.readFloat64(mu), file.readFloat64(`${name}.sigma${k + 1}`)];
      const whole = mergedOf(lapack, file, `${name}.x${k + 1}`);
      groups.statistics.add(relMax(got.mean, mean), mu);
      groups.statistics.add(relMax(got.covariance, covariance), `${name}.sigma${k + 1}`);
      groups.merged.add(relMax(whole.mean, got.mean), mu);
      groups.merged.add(relMax(whole.covariance, got.covariance), `${name}.sigma${k + 1}`);
    }
  }
  return Object.values(groups).map((group) => group.result());
}

/** Rows of a tensor [n, d], all at once. */
function gaussianOf(lapack: Lapack, file: Safetensors, name: string): Gaussian {
  const moments = new Moments(lapack, widthOf(file, name));
  moments.add(file.readFloat32(name));
  return moments.gaussian(`${file.path}: ${name}`);
}

/** The same rows in two unequal parts, merged. */
function mergedOf(lapack: Lapack, file: Safetensors, name: string): Gaussian {
  const d = widthOf(file, name);
  const values = file.readFloat32(name);
  const split = Math.floor(values.length / d / 3) * d;
  const [one, two] = [new Moments(lapack, d), new Moments(lapack, d)];
  one.add(values.subarray(0, split));
  two.add(values.subarray(split));
  one.merge(two);
  return one.gaussian(`${file.path}: ${name}`);
}

function widthOf(file: Safetensors, name: string): number {
  const { shape } = file.entry(name);
  if (shape.length !== 2 || !shape[1])
    throw new Failure({ what: file.path, why: `${name} is not [images, features]` });
  return shape[1];
}

/** Whether a covariance has directions without any variance. */
function isSingular(lapack: Lapack, { covariance, d }: Gaussian): boolean {
  const values = lapack.symmetricEigen(covariance.slice(), d);
  return !(values[0]! > d * Number.EPSILON * values[d - 1]!);
}

/** Files with the same statistics in the two formats hold the same numbers. */
function checkFiles(dir: string, files: readonly string[]): GroupResult | null {
  const group = new Group('statistics files', 0);
  const stem = (file: string) => file.replace(/\.[^.]*$/, '');
  for (const file of files) {
    const { gaussian } = readStatistics(join(dir, file));
    const other = files.find((one) => one !== file && stem(one) === stem(file)) ?? file;
    const twin = readStatistics(join(dir, other)).gaussian;
    group.add(maxAbs(gaussian.mean, twin.mean), `${file}: mu`);
    group.add(maxAbs(gaussian.covariance, twin.covariance), `${file}: sigma`);
  }
  return group.result();
}
