// Networks that make features of images, with what every output says of them: which weights, which resize.
import { createReadStream } from 'node:fs';
import { basename } from 'node:path';
import type { Backend } from '../backend/backend.ts';
import { stateDict } from '../inception/fold.ts';
import { declareInception } from '../inception/network.ts';
import { EXIT, Failure } from '../io/failure.ts';
import { openTensors } from '../io/open-tensors.ts';
import { osFailure } from '../io/oserror.ts';
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
