// Networks that make features of images, with what every output says of them: which weights, which resize.
import { createReadStream, existsSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import type { Backend } from '../backend/backend.ts';
import { stateDict } from '../inception/fold.ts';
import { declareInception } from '../inception/network.ts';
import { EXIT, Failure } from '../io/failure.ts';
import { openTensors } from '../io/open-tensors.ts';
import { readJsonFile } from '../io/read-json.ts';
import { osFailure } from '../io/oserror.ts';
import { DFN5B_VISUAL } from '../text/clip-visual.ts';
import { ClipImages, type ClipResize } from './clip-images.ts';
import { formulaFile } from './formula-weights.ts';
import type { Extractor } from './gather.ts';
import { InceptionNetwork } from './inception.ts';
import type { Origin } from './statistics-file.ts';

export interface LoadedExtractor {
  readonly extractor: Extractor;
  readonly origin: Origin;
  /** What a reader of its numbers has to know; empty where there is nothing. */
  readonly warnings: readonly string[];
  free(): void;
}

/** In place of a file: made-up weights by the formula of the golden data. */
export const FORMULA = 'formula';
/** The first digits of the published file's sha256, which its name carries. */
const PUBLISHED = '6726825d';
export const INCEPTION_RESIZE = 'bilinear to 299 x 299 without antialiasing, as pytorch-fid';

/** Inception from a file with pytorch-fid's names. A backend that rounds to bfloat16 is refused. */
export async function loadInception(backend: Backend, path: string, batch: number): Promise<LoadedExtractor> {
  if (backend.elemBytes.act === 2) {
    throw new Failure({
      what: 'inception',
      why: 'its features are computed in float32, this device was opened for bfloat16',
      fix: 'Say --precision fp32',
      code: EXIT.usage,
    });
  }
  if (path === FORMULA) {
    const file = formulaFile(stateDict(declareInception()), { salt: '', gain: 1.6 });
    const network = InceptionNetwork.load(backend, file, { batch });
    return {
      extractor: network,
      origin: { weights: 'inception, made up by formula', resize: INCEPTION_RESIZE },
      warnings: [
        'the weights are made up by a formula: these numbers check the program, they measure nothing',
      ],
      free: () => network.free(),
    };
  }
  const sum = await sha256Of(path);
  using file = openTensors(path);
  const network = InceptionNetwork.load(backend, file, { batch });
  const warnings = sum.startsWith(PUBLISHED)
    ? []
    : [`${path} is not pytorch-fid's file, whose sha256 begins with ${PUBLISHED}: other tools will differ`];
  return {
    extractor: network,
    origin: { weights: `inception ${basename(path)}, sha256 ${sum.slice(0, 16)}`, resize: INCEPTION_RESIZE },
    warnings,
    free: () => network.free(),
  };
}

/**
 * The image tower of DFN5B's CLIP (ViT-H/14-378). How images are resized stands in the open_clip_config.json
 * beside the weights; where there is none, open_clip's own default is taken.
 */
export async function loadClip(backend: Backend, path: string, batch: number): Promise<LoadedExtractor> {
  const sum = await sha256Of(path);
  using file = openTensors(path);
  const resize = clipResizeOf(join(dirname(path), 'open_clip_config.json'));
  const tower = ClipImages.load(backend, DFN5B_VISUAL, file, { batch, resize });
  const way = resize === 'squash' ? 'squashed' : 'shorter side, middle cut';
  return {
    extractor: tower,
    origin: {
      weights: `CLIP image tower ${basename(path)}, sha256 ${sum.slice(0, 16)}`,
      resize: `Pillow's bicubic to 378 x 378, ${way}`,
    },
    warnings: ["CLIP's image tower was checked against PyTorch with made-up weights of a small size only"],
    free: () => tower.free(),
  };
}

function clipResizeOf(config: string): ClipResize {
  if (!existsSync(config)) return 'shortest';
  const { preprocess_cfg } = readJsonFile(config) as { preprocess_cfg?: { resize_mode?: unknown } };
  const mode = preprocess_cfg?.resize_mode ?? 'shortest';
  if (mode === 'squash' || mode === 'shortest') return mode;
  throw new Failure({ what: config, why: `resize_mode ${JSON.stringify(mode)} is not known here` });
}

/** The checksum of a file, in hexadecimal digits. */
export async function sha256Of(path: string): Promise<string> {
  const hash = new Bun.CryptoHasher('sha256');
  try {
    for await (const chunk of createReadStream(path)) hash.update(chunk);
  } catch (error) {
    throw osFailure(error, path, 'read');
  }
  return hash.digest('hex');
}
