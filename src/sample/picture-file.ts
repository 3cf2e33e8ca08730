// A picture as a file: a PNG with the settings that made it inside, the same whoever asks for it.
import { type ImageSettings, settingsTexts } from '../io/parameters.ts';
import { encodePng, type Pixels, type PngText } from '../io/png.ts';
import type { Job } from './batches.ts';
import type { Model } from './model-file.ts';
import { enlarge } from './pixels.ts';
import type { ImageRecord } from './records.ts';

/** What decides how a picture looks, all of it said. */
export type PictureSettings = Omit<Job, 'index' | 'out'>;

/** What made a picture, beside its settings. */
export interface Maker {
  readonly model: Pick<Model, 'name' | 'step'>;
  /** By what factor pixels are enlarged. */
  readonly scale: number;
  /** Files that stand beside the model's. */
  readonly beside: Pick<ImageRecord, 'clip' | 'vae'>;
  /** Of the program. */
  readonly version: string;
}

/** The PNG of a picture and its pixels, enlarged. */
export function pictureFile(
  settings: PictureSettings,
  picture: { readonly pixels: Pixels; readonly truncated: boolean },
  maker: Maker,
): { readonly png: Uint8Array; readonly pixels: Pixels } {
  const pixels = enlarge(picture.pixels, maker.scale);
  return { png: encodePng(pixels, pictureTexts(settings, pixels, picture.truncated, maker)), pixels };
}

/** The texts in the PNG of a picture of this size. */
export function pictureTexts(
  settings: PictureSettings,
  { width, height }: Pick<Pixels, 'width' | 'height'>,
  truncated: boolean,
  { model, scale, beside, version }: Maker,
): PngText[] {
  const { prompt, negative_prompt, seed, steps, cfg_scale, sampler } = settings;
  const image: ImageSettings = {
    prompt,
    ...(negative_prompt === '' ? {} : { negativePrompt: negative_prompt }),
    seed,
    steps,
    cfgScale: cfg_scale,
    sampler,
    width,
    height,
    model: model.name,
    more: {
      model_step: model.step,
      scale,
      ...beside,
      ...keysOf(settings),
      ...(truncated ? { truncated } : {}),
    },
  };
  return settingsTexts(image, `microdiff ${version}`);
}

/** The keys that are left out where they say what is usual: guidance at all levels, our own noise. */
export function keysOf({
  guidance_interval,
  rng,
}: Pick<PictureSettings, 'guidance_interval' | 'rng'>): Pick<ImageRecord, 'guidance_interval' | 'rng'> {
  return {
    ...(guidance_interval === null ? {} : { guidance_interval }),
    ...(rng === 'torch-cuda' ? { rng } : {}),
  };
}
