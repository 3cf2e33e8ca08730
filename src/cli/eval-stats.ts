// eval stats: mean and covariance of the features of sets of images, merged, into a file.
import { openLapack } from '../../ffi/lapack.ts';
import { Moments } from '../eval/moments.ts';
import { type Origin, writeStatistics } from '../eval/statistics-file.ts';
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
  using measuring = new Measuring(call, openLapack, false);
  let all: Moments | null = null;
  let origin: Origin | null = null;
  let left = 0;
  for (const word of words) {
    const kind = kindOf(word);
    if (kind === 'model') throw usage(word, 'is a model', 'Draw its pictures first: microdiff sample');
    const side = await measuring.side(word, kind);
    for (const remark of side.remarks) log.warn(remark);
    if (side.origin && origin && encodeRecord({ ...side.origin }) !== encodeRecord({ ...origin })) {
      const { weights, resize } = side.origin;
      const why = `was made by "${weights}", ${resize}; others by "${origin.weights}"`;
      throw new Failure({ what: word, why, fix: 'Merge statistics of one network' });
    }
    origin ??= side.origin;
    left += side.unreadable.length;
    const moments = Moments.of(await openLapack(), side.gaussian, word);
    if (all) all.merge(moments);
    else all = moments;
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
