// What becomes of squares and captions: columns of a sample, through an autoencoder and a text tower, many at
// a time, or as they are.
import type { Backend } from '../backend/backend.ts';
import { float32ToF16 } from '../io/dtype.ts';
import { Failure } from '../io/failure.ts';
import { toSigned, interleave } from '../io/image/crop.ts';
import type { MdsValue } from '../io/mds/values.ts';
import { encodePng } from '../io/png.ts';
import { Q8_SUFFIX, toQ8 } from '../io/q8.ts';
import type { Vae } from '../sample/autoencoder.ts';
import type { ClipEncoder } from '../sample/clip-encoder.ts';
import { SampleNoise } from '../sample/noise.ts';
import { PictureEncoder } from '../sample/picture-encoder.ts';
import { clipTokenizer } from '../text/vocabulary.ts';
import { vaeFactor } from '../vae/config.ts';
import { posterior, samplePosterior, scaleLatents } from '../vae/posterior.ts';

export const CAPTION_FORMS = ['states', 'states8', 'tokens', 'text'] as const;
export type CaptionForm = (typeof CAPTION_FORMS)[number];
export const needsTower = (form: CaptionForm) => form === 'states' || form === 'states8';
export const POSTERIORS = ['sample', 'mode'] as const;

export interface EncoderSettings {
  readonly sizes: readonly number[];
  readonly posterior: (typeof POSTERIORS)[number];
  readonly form: CaptionForm;
  readonly seed: number;
  /** Pictures in one pass of the autoencoder; left out: by their size and the device. */
  readonly batch?: number | undefined;
}

/** Columns of one kind: their encodings by name, and what fills them. */
interface Columns<T> {
  readonly encodings: Readonly<Record<string, string>>;
  /** Items that are worth giving at a time; how many are given changes no bits on the CPU. */
  readonly batch: number;
  /** For each item its values, or NotFinite where an encoder gives it numbers that are not finite. */
  values(items: readonly T[], places: readonly number[]): Filled[];
  free(): void;
}

export type Filled = Record<string, MdsValue> | NotFinite;

export type PictureColumns = Columns<readonly Uint8Array[]>;
export type CaptionColumns = Omit<Columns<string>, 'values'> & { values(texts: readonly string[]): Filled[] };

/** An encoder's numbers are no numbers; told of the item alone. */
export class NotFinite extends Error {}

/** Pixels in one pass of the autoencoder; more on a GPU, which has more to keep busy. */
const PASS_PIXELS = { cpu: 2 ** 18, gpu: 2 ** 21 };
const LARGEST_PASS = 32;

/** Pictures of so many pixels a side in one pass, where none were asked for. */
export function passOf(backend: Pick<Backend, 'name'>, size: number): number {
  const pixels = backend.name === 'cpu' ? PASS_PIXELS.cpu : PASS_PIXELS.gpu;
  return Math.min(LARGEST_PASS, Math.max(1, Math.floor(pixels / size ** 2)));
}

/** Squares as latents in halves, times the scale of the autoencoder, which stays the caller's. */
export function latentColumns(backend: Backend, vae: Vae, settings: EncoderSettings): PictureColumns {
  const factor = vaeFactor(vae.config);
  const { latent_channels: C, in_channels } = vae.config;
  const { sizes, posterior: kind, seed } = settings;
  const wrong = sizes.find((size) => size % factor !== 0);
  if (wrong !== undefined || in_channels !== 3) {
    const why =
      wrong === undefined ? `it takes ${in_channels} channels` : `${wrong} is no multiple of ${factor}`;
    throw new Failure({ what: 'autoencoder', why, fix: 'Choose another --size or --vae', code: 2 });
  }
  const ways = sizes.map((size) => {
    const [side, batch] = [size / factor, settings.batch ?? passOf(backend, size)];
    return {
      ...{ side, batch, column: `latents_${size}` },
      encoder: new PictureEncoder(vae, { height: size, width: size }, batch),
      noise: kind === 'sample' ? new SampleNoise(backend, batch, [C, side, side]) : null,
    };
  });
  type Way = (typeof ways)[number];

  /** Latents [n, C, side, side] of n squares, at most a batch of them. */
  function latents({ encoder, noise, side, batch }: Way, squares: Uint8Array[], places: readonly number[]) {
    const moments = encoder.encode(squares.map((square) => toSigned(square)));
    const distribution = posterior(moments, squares.length);
    const seeds = Array.from({ length: batch }, (_, n) => seed + (places[n] ?? 0));
    const z = noise ? samplePosterior(distribution, noise.draw(seeds)) : distribution.mean;
    return scaleLatents(vae.config, z, side ** 2);
  }

  return {
    encodings: Object.fromEntries(ways.map(({ column }) => [column, 'bytes'])),
    batch: Math.max(...ways.map(({ batch }) => batch)),
    values(items, places) {
      const filled = items.map((): Filled => ({}));
      for (const [i, way] of ways.entries()) {
        const count = C * way.side ** 2;
        for (let at = 0; at < items.length; at += way.batch) {
          const part = items.slice(at, at + way.batch);
          const squares = part.map((sizes) => sizes[i]!);
          const all = latents(way, squares, places.slice(at, at + way.batch));
          for (const n of part.keys()) {
            put(filled, at + n, way.column, all.subarray(n * count, (n + 1) * count));
          }
        }
      }
      return filled;
    },
    free() {
      for (const { encoder, noise } of ways) {
        encoder.free();
        noise?.free();
      }
    },
  };
}

/**
 * Sets a column of an item to numbers in halves, or in 8 bits where its name says so; one that is not finite
 * in halves is the end of the item.
 */
function put(filled: Filled[], item: number, column: string, values: Float32Array): void {
  const known = filled[item]!;
  if (known instanceof NotFinite) return;
  const bits = new Uint16Array(values.length);
  float32ToF16(values, bits);
  if (bits.some((half) => (half & 0x7c00) === 0x7c00)) {
    filled[item] = new NotFinite('numbers that are not finite in halves');
  } else known[column] = column.endsWith(Q8_SUFFIX) ? toQ8(values) : new Uint8Array(bits.buffer);
}

/** Squares as they are: PNG files. */
export function pictureColumns({ sizes }: EncoderSettings): PictureColumns {
  return {
    encodings: Object.fromEntries(sizes.map((size) => [`image_${size}`, 'png'])),
    batch: 1,
    values: (items) =>
      items.map((squares) =>
        Object.fromEntries(
          sizes.map((size, i) => {
            const data = interleave(squares[i]!, size * size);
            const bytes = encodePng({ width: size, height: size, channels: 3, data });
            return [`image_${size}`, { kind: 'image', format: 'png', bytes } as const];
          }),
        ),
      ),
    free() {},
  };
}

/** Captions as states of a text tower in halves or 8 bits, as token ids in 16 bits each, or as text alone. */
export function captionColumns(form: CaptionForm, clip: ClipEncoder | null, batch = 1): CaptionColumns {
  if (needsTower(form) && clip) {
    const column = form === 'states8' ? `caption_latents${Q8_SUFFIX}` : 'caption_latents';
    return {
      encodings: { caption: 'str', [column]: 'bytes' },
      batch,
      values(captions) {
        const filled = captions.map((caption): Filled => ({ caption }));
        const states = Float32Array.from(clip.encode(captions).states);
        const size = states.length / captions.length;
        for (const n of captions.keys()) {
          put(filled, n, column, states.subarray(n * size, (n + 1) * size));
        }
        return filled;
      },
      free: () => clip.free(),
    };
  }
  if (form === 'tokens') {
    const tokenizer = clipTokenizer();
    return {
      encodings: { caption: 'str', caption_tokens: 'bytes' },
      batch: 1,
      values: (captions) =>
        captions.map((caption) => {
          const ids = Uint16Array.from(tokenizer.encode(caption).ids);
          return { caption, caption_tokens: new Uint8Array(ids.buffer) };
        }),
      free() {},
    };
  }
  const values: CaptionColumns['values'] = (captions) => captions.map((caption) => ({ caption }));
  return { encodings: { caption: 'str' }, batch: 1, values, free() {} };
}
