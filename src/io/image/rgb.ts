// A decoded picture as the pipeline hands it on, and the error of a file that cannot become one.
import { Failure } from '../failure.ts';

/** 8-bit pixels [height, width, 3], rows from the top, without gaps. */
export interface Rgb {
  readonly width: number;
  readonly height: number;
  readonly data: Uint8Array;
}

/** Why a file is no picture for training: another kind, damaged, or beyond a limit. */
export type Unusable = 'unsupported' | 'damaged' | 'too large';

/** A Failure whose `reason` can be counted. */
export class ImageFailure extends Failure {
  constructor(
    /** The file, for messages. */
    readonly file: string,
    readonly reason: Unusable,
    why: string,
  ) {
    super({ what: file, why, fix: REMEDY[reason] });
  }
}

const REMEDY: Readonly<Record<Unusable, string>> = {
  unsupported: 'Use PNG, JPEG, WebP, GIF, BMP or AVIF',
  damaged: 'Copy or download it again',
  'too large': 'Make it smaller, or raise the limit',
};

/** How much one picture may take. */
export interface Limits {
  /** Of the file. */
  readonly bytes: number;
  /** Width times height, known from the header before anything is unpacked. */
  readonly pixels: number;
}

/** The pixels are those at which Pillow begins to warn; decoding takes up to about 12 bytes for each. */
export const LIMITS: Limits = { bytes: 128 * 2 ** 20, pixels: 89_478_485 };

/** ImageFailure for a size of nothing or beyond the limit. */
export function checkSize(name: string, width: number, height: number, limits: Limits): void {
  if (width < 1 || height < 1) throw new ImageFailure(name, 'damaged', `its size is ${width} x ${height}`);
  if (width * height <= limits.pixels) return;
  const why = `${width} x ${height} are more than ${limits.pixels} pixels`;
  throw new ImageFailure(name, 'too large', why);
}
