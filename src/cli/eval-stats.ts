// eval stats: mean and covariance of the features of sets of images, merged, into a file.
import { dirname } from 'node:path';
import { openLapack } from '../../ffi/lapack.ts';
import { remarksOnImages } from '../eval/fid.ts';
import { openImageSet } from '../eval/image-sets.ts';
import { Moments } from '../eval/moments.ts';
import { identityOf, type Origin, writeStatistics } from '../eval/statistics-file.ts';
import { makeFolder } from '../io/atomic.ts';
import { Failure } from '../io/failure.ts';
import { encodeRecord } from '../io/jsonl.ts';
import type { EvalCall } from './eval-flags.ts';
import { kindOf, Measuring } from './eval-sets.ts';
import { usage } from './flags.ts';
import { stdout } from './stdout.ts';

export async function evalStats(call: EvalCall): Promise<number> {
  const { values, log, args } = call;
  const { output } = values;
  const fix = 'Write -o FILE.safetensors';
  if (output === undefined) throw usage('eval stats', 'needs a file to write', fix);
  if (!/\.safetensors$/i.test(output)) {
    throw usage(`-o ${output}`, 'statistics are written as safetensors, in float64', fix);
  }
  const words = args.slice(1);
  const kinds = words.map(kindOf);
  const model = words.find((_, i) => kinds[i] === 'model');
  if (model) throw usage(model, 'is a model', 'Draw its pictures first: microdiff sample');
  const saved = words.filter((_, i) => kinds[i] === 'statistics');
  const sets = words.filter((_, i) => kinds[i] === 'images');
  // What is wrong with any of them comes to light before hours go into the others.
  for (const word of sets) openImageSet(word);
  makeFolder(dirname(output));
  using measuring = new Measuring(call, openLapack, false);
  const lapack = await openLapack();
  let all: Moments | null = null;
  let origin: Origin | null = sets.length > 0 ? (await measuring.extractor()).origin : null;
  for (const word of saved) {
    const side = await measuring.side(word, 'statistics');
    for (const remark of side.remarks) log.warn(remark);
    const key = (one: Origin) => encodeRecord({ ...identityOf(one) });
    if (side.origin && origin && key(side.origin) !== key(origin)) {
      const { weights, resize } = side.origin;
      const why = `was made by "${weights}", ${resize}; others by "${origin.weights}"`;
      throw new Failure({ what: word, why, fix: 'Merge statistics of one network' });
    }
    origin ??= side.origin;
    all = joined(all, Moments.of(lapack, side.gaussian, word));
  }
  let left = 0;
  for (const word of sets) {
    // A part may be a single image: only all of them need a covariance.
    const gathered = await measuring.gathered(openImageSet(word));
    for (const remark of remarksOnImages(word, gathered)) log.warn(remark);
    left += gathered.unreadable.length;
    all = joined(all, gathered.moments);
  }
  if (!all || !origin) throw usage('eval stats', 'no set says which weights made it', 'Give images as well');
  for (const warning of measuring.warnings) log.warn(warning);
  const gaussian = all.gaussian(words.join(', '));
  writeStatistics(output, gaussian, origin);
  const { count } = gaussian;
  if (values.json) stdout.line(encodeRecord({ file: output, count, unreadable: left, ...origin }));
  else stdout.write(`${output}: ${count} images, ${origin.weights}, ${origin.resize}\n`);
  return 0;
}

function joined(all: Moments | null, more: Moments): Moments {
  all?.merge(more);
  return all ?? more;
}
