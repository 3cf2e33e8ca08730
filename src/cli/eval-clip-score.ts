// eval clip-score: how well images fit their prompts, by CLIP.
import { clipScore, textVectors } from '../eval/clip-score.ts';
import { loadClip } from '../eval/extractors.ts';
import { openImageSet } from '../eval/image-sets.ts';
import { readPromptList } from '../eval/prompt-lists.ts';
import { Failure } from '../io/failure.ts';
import { encodeRecord } from '../io/jsonl.ts';
import { openTensors } from '../io/open-tensors.ts';
import { ClipEncoder } from '../sample/clip-encoder.ts';
import { pulledPart } from '../sample/pulled.ts';
import { DFN5B_TEXT } from '../text/clip-config.ts';
import { clipTokenizer } from '../text/vocabulary.ts';
import { openDevice } from './device.ts';
import { DEFAULT_CLIP, type EvalCall } from './eval-flags.ts';
import { usage } from './flags.ts';
import { stdout } from './stdout.ts';

export async function evalClipScore({ values, log, progress, args }: EvalCall): Promise<number> {
  const { prompts: list, count, column, seed } = values;
  if (list === undefined) throw usage('eval clip-score', 'there are no prompts', 'Write --prompts FILE');
  const { prompts, chosen } = await readPromptList(list, { count, column, seed });
  const set = openImageSet(args[1]!);
  if (set.count !== null && set.count !== prompts.length) {
    const why = `has ${set.count} images for ${prompts.length} prompts`;
    throw new Failure({ what: set.path, why, fix: 'Give as many images as prompts, in the same order' });
  }
  const path = pulledPart(values.clip ?? DEFAULT_CLIP);
  const backend = await openDevice({ ...values, precision: 'fp32', 'cpu-bf16': false }, log);
  const { extractor, origin, warnings, free } = await loadClip(backend, path, 1);
  using file = openTensors(path);
  const encoder = ClipEncoder.load(backend, DFN5B_TEXT, file, { pooled: true });
  const begin = performance.now();
  const result = await clipScore(extractor, textVectors(encoder, clipTokenizer()), set, prompts, (done) => {
    const rate = done / ((performance.now() - begin) / 1000);
    progress.update({ unit: 'image', done, total: prompts.length, rate });
  });
  progress.finish();
  free();
  encoder.free();
  for (const warning of warnings) log.warn(warning);
  const { score, ci95 } = result;
  if (values.json) {
    const about = { images: set.path, prompts: chosen, ...origin, remarks: warnings };
    stdout.line(encodeRecord({ clip_score: score, ci95, count: result.count, ...about }));
  } else {
    const range = `${ci95[0].toFixed(4)} to ${ci95[1].toFixed(4)}`;
    stdout.write(`clip_score  ${score.toFixed(4)} (mean cosine; ${range}), ${result.count} images\n`);
    stdout.write(`prompts     ${chosen}\nweights     ${origin.weights}\nresize      ${origin.resize}\n`);
  }
  return 0;
}
