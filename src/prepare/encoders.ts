// What becomes of squares and captions: columns of a sample, through an autoencoder and a text tower, or as
// they
// are.
import type { Backend } from '../backend/backend.ts';
import { float32ToF16 } from '../io/dtype.ts';
import { Failure } from '../io/failure.ts';
import { toSigned, interleave } from '../io/image/crop.ts';
import type { MdsSample, MdsValue } from '../io/mds/values.ts';
import { encodePng } from '../io/png.ts';
import type { Vae } from '../sample/autoencoder.ts';
import type { ClipEncoder } from '../sample/clip-encoder.ts';
import { SampleNoise } from '../sample/noise.ts';
import { clipTokenizer } from '../text/vocabulary.ts';
import { vaeFactor } from '../vae/config.ts';
import { posterior, samplePosterior, scaleLatents } from '../vae/posterior.ts';

export const CAPTION_FORMS = ['states', 'tokens', 'text'] as const;
export type CaptionForm = (typeof CAPTION_FORMS)[number];
export const POSTERIORS = ['sample', 'mode'] as const;

export interface EncoderSettings {
  readonly sizes: readonly number[];
  readonly posterior: (typeof POSTERIORS)[number];
  readonly form: CaptionForm;
  readonly seed: number;
}

/** Columns of one kind: their encodings by name, and what fills them. */
interface Columns<T> {
  readonly encodings: Readonly<Record<string, string>>;
  /** Throws NotFinite where an encoder gives numbers that are not finite. */
  values(of: T, place: number): Record<string, MdsValue>;
  free(): void;
}

/** An encoder's numbers are no numbers; told of the item alone. */
export class NotFinite extends Error {}

/** Squares as latents in halves, times the autoencoder's scale as the reference stores them. */
export function latentColumns(
  backend: Backend,
  vae: Vae,
  settings: EncoderSettings,
): Columns<readonly Uint8Array[]> {
  const factor = vaeFactor(vae.config);
  const { latent_channels: C, in_channels } = vae.config;
  const wrong = settings.sizes.find((size) => size % factor !== 0);
  if (wrong !== undefined || in_channels !== 3) {
    const why =
      wrong === undefined ? `it takes ${in_channels} channels` : `${wrong} is no multiple of ${factor}`;
    throw new Failure({ what: 'autoencoder', why, fix: 'Choose another --size or --vae', code: 2 });
  }
  const sampled = settings.posterior === 'sample';
  const noises = settings.sizes.map((size) => {
    return sampled ? new SampleNoise(backend, 1, [C, size / factor, size / factor]) : null;
  });
  return {
    encodings: Object.fromEntries(settings.sizes.map((size) => [`latents_${size}`, 'bytes'])),
    values: (squares, place) =>
      Object.fromEntries(
        settings.sizes.map((size, i) => {
          const moments = vae.encode(toSigned(squares[i]!), { height: size, width: size });
          const distribution = posterior(moments, 1);
          const noise = noises[i]?.draw([settings.seed + place]);
          const z = noise ? samplePosterior(distribution, noise) : distribution.mean;
          return [`latents_${size}`, halves(scaleLatents(vae.config, z, (size / factor) ** 2))];
        }),
      ),
    free() {
      for (const noise of noises) noise?.free();
      vae.free();
    },
  };
}

/** Squares as they are: PNG files. */
export function pictureColumns({ sizes }: EncoderSettings): Columns<readonly Uint8Array[]> {
  return {
    encodings: Object.fromEntries(sizes.map((size) => [`image_${size}`, 'png'])),
    values: (squares) =>
      Object.fromEntries(
        sizes.map((size, i) => {
          const data = interleave(squares[i]!, size * size);
          const bytes = encodePng({ width: size, height: size, channels: 3, data });
          return [`image_${size}`, { kind: 'image', format: 'png', bytes } as const];
        }),
      ),
    free() {},
  };
}

/** Captions as states of a text tower in halves, as token ids in 16 bits each, or as text alone. */
export function captionColumns(form: CaptionForm, clip: ClipEncoder | null): Columns<string> {
  if (form === 'states' && clip) {
    return {
      encodings: { caption: 'str', caption_latents: 'bytes' },
      values: (caption) => ({
        caption,
        caption_latents: halves(Float32Array.from(clip.encode([caption]).states)),
      }),
      free: () => clip.free(),
    };
  }
  if (form === 'tokens') {
    const tokenizer = clipTokenizer();
    return {
      encodings: { caption: 'str', caption_tokens: 'bytes' },
      values(caption) {
        const ids = Uint16Array.from(tokenizer.encode(caption).ids);
        return { caption, caption_tokens: new Uint8Array(ids.buffer) };
      },
      free() {},
    };
  }
  return { encodings: { caption: 'str' }, values: (caption) => ({ caption }), free() {} };
}

function halves(values: Float32Array): Uint8Array {
  const bits = new Uint16Array(values.length);
  float32ToF16(values, bits);
  if (bits.some((half) => (half & 0x7c00) === 0x7c00))
    throw new NotFinite('numbers that are not finite in halves');
  return new Uint8Array(bits.buffer);
}

/** The columns of a whole sample. */
export function sampleOf(...parts: readonly Record<string, MdsValue>[]): MdsSample {
  return Object.assign({}, ...parts);
}
