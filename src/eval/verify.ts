// Conformance of this build with golden data: which part a folder holds, told by its files, and its checks.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Lapack } from '../../ffi/lapack.ts';
import { Failure } from '../io/failure.ts';
import { osFailure } from '../io/oserror.ts';
import { verifyCaptionClean, verifyTokenizer } from './captions.ts';
import { verifyClipText } from './clip-text.ts';
import { type GroupResult, skipped } from './conformance.ts';
import { verifyDistances } from './fid-set.ts';
import { verifyImages } from './images.ts';
import { verifyInception } from './inception-set.ts';
import { JsonObject } from './json-file.ts';
import { verifyMds } from './mds.ts';
import { isMicrodit, type MicroditOptions, verifyMicrodit } from './microdit.ts';
import { verifyVae } from './vae.ts';

type Recognise = (files: readonly string[], dir: string) => boolean;

const some =
  (...names: readonly RegExp[]): Recognise =>
  (files) =>
    names.every((name) => files.some((file) => name.test(file)));

/** Captions of the tokenizer come with token ids, those of the cleaning do not. */
const captions =
  (withIds: boolean): Recognise =>
  (files, dir) =>
    files.includes('captions.jsonl') &&
    /^\s*\{[^\n]*"ids"/.test(readFileSync(join(dir, 'captions.jsonl'), 'utf8')) === withIds;

/** Parts of the golden data, in the order in which they are tried. */
const PARTS: Readonly<Record<string, Recognise>> = {
  microdit: isMicrodit,
  'clip-text': some(/\.io\.safetensors$/, /\.weights\.bin$/),
  vae: some(/\.io\.safetensors$/, /\.config\.json$/),
  images: some(/^expected\.json$/, /\.(png|jpe?g|webp|gif|bmp|avif)$/i),
  mds: some(/\.expected\.json$/),
  fid: some(/^(frechet|inception|stats_)/),
  tokenizer: captions(true),
  'caption-clean': captions(false),
};

export interface VerifyOptions extends MicroditOptions {
  /** For the distances of the part `fid`, which are skipped without. */
  readonly lapack?: Lapack;
}

/** Every group of a folder's part, as it is done. A folder of no known part is a Failure. */
export async function* verify(dir: string, options: VerifyOptions): AsyncGenerator<GroupResult> {
  const part = partOf(dir);
  if (part === 'microdit') yield* verifyMicrodit(dir, options);
  else if (part === 'clip-text') yield* verifyClipText(dir, options.backend);
  else if (part === 'tokenizer') yield* verifyTokenizer(dir);
  else if (part === 'caption-clean') yield* verifyCaptionClean(dir);
  else if (part === 'images') yield* await verifyImages(dir);
  else if (part === 'mds') yield* verifyMds(dir);
  else if (part === 'vae') yield* verifyVae(dir, { backend: options.backend });
  else if (part === 'fid') yield* verifyFid(dir, options);
  else yield skipped(part, 'the reader of this part is not built yet');
}

function* verifyFid(dir: string, { backend, lapack }: VerifyOptions): Generator<GroupResult> {
  if (lapack) yield* verifyDistances(dir, lapack);
  else yield skipped('frechet', 'needs LAPACK');
  const manifest = join(dir, 'manifest.json');
  const salt = existsSync(manifest) ? JsonObject.read(manifest).get('salt') : undefined;
  yield* verifyInception(dir, backend, typeof salt === 'string' ? salt : '');
}

/** By manifest.json, which names the part, else by the files. */
function partOf(dir: string): string {
  let files: readonly string[];
  try {
    files = readdirSync(dir);
  } catch (error) {
    throw osFailure(error, dir, 'read');
  }
  const manifest = join(dir, 'manifest.json');
  const named = existsSync(manifest) ? JsonObject.read(manifest).get('part') : undefined;
  if (typeof named === 'string' && Object.hasOwn(PARTS, named)) return named;
  const part = Object.keys(PARTS).find((name) => PARTS[name]!(files, dir));
  if (part) return part;
  throw new Failure({
    what: dir,
    why: 'holds no golden files that are known here',
    fix: 'Name the folder of one part, such as one with *.info.json and *.weights.safetensors',
  });
}
