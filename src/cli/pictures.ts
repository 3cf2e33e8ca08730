// What `sample` writes: PNGs with their settings in them, a record for each, and the sheet of all.

import { dirname } from 'node:path';
import { makeFolder, writeWholeFile } from '../io/atomic.ts';
import { Failure } from '../io/failure.ts';
import { withCanvas } from '../io/figure/canvas.ts';
import type { ImageSettings } from '../io/parameters.ts';
import { settingsTexts } from '../io/parameters.ts';
import { encodePng, type Pixels } from '../io/png.ts';
import type { Job } from '../sample/batches.ts';
import type { Destination, Names } from '../sample/destination.ts';
import type { Model } from '../sample/model-file.ts';
import { enlarge } from '../sample/pixels.ts';
import { type ErrorRecord, type ImageRecord, jsonRecord, packRecord } from '../sample/records.ts';
import type { Picture } from '../sample/sampler.ts';
import { stdout } from './stdout.ts';
import { version } from './version.ts';

export type Format = 'jsonl' | 'msgpack';

interface Parts {
  readonly destination: Destination;
  /** null where nothing is written to files. */
  readonly names: Names | null;
  readonly format: Format;
  readonly scale: number;
  readonly model: Pick<Model, 'name' | 'step'>;
  /** Called before anything is written on standard output. */
  readonly makeRoom: () => void;
}

/** Pictures that fit on a sheet; those after are left out, and that is said. */
export const SHEET_LIMIT = 1024;

export class PictureWriter {
  /** Lines that gave no picture. */
  errors = 0;
  pictures = 0;
  truncated = 0;
  private readonly sheet: { pixels: Pixels; caption: string }[] = [];

  constructor(
    private readonly parts: Parts,
    private readonly withSheet: boolean,
  ) {}

  /** Writes one picture and its record; `seconds` is its share of the time of its batch. */
  write(job: Job, picture: Picture, seconds: number): void {
    if (!picture.pixels) {
      this.error(job.index, 'the picture is not finite (NaN): the model or the settings are out of range');
      return;
    }
    const { scale, destination, format, names } = this.parts;
    const pixels = enlarge(picture.pixels, scale);
    const png = encodePng(pixels, settingsTexts(this.settings(job, pixels), `microdiff ${version}`));
    let file: string | null = null;
    if (names) {
      const place = names.place(job);
      if ('error' in place) {
        this.error(job.index, place.error);
        return;
      }
      file = place.path;
      if (!this.writeFile(job, file, png)) return;
    }
    this.pictures++;
    if (picture.truncated) this.truncated++;
    if (this.withSheet && this.sheet.length < SHEET_LIMIT) {
      this.sheet.push({ pixels: picture.pixels, caption: job.prompt });
    }
    if (destination.kind === 'stream' && format === 'jsonl') {
      this.put(png);
      return;
    }
    const record = this.record(job, file, pixels, seconds, picture.truncated);
    this.put(format === 'jsonl' ? jsonRecord(record) : packRecord(record, file === null ? png : undefined));
  }

  /** A line that gave no picture. */
  error(index: number, error: string): void {
    this.errors++;
    const record: ErrorRecord = { index, error };
    const { destination, format } = this.parts;
    if (destination.kind === 'stream' && format === 'jsonl') {
      throw new Failure({ what: `picture ${index}`, why: error });
    }
    this.put(format === 'jsonl' ? jsonRecord(record) : packRecord(record));
  }

  /** Draws the sheet of the pictures so far; false when there are none. */
  async drawSheet(path: string): Promise<boolean> {
    if (this.sheet.length === 0) return false;
    const { drawSheet } = await withCanvas(() => import('../io/figure/sheet.ts'));
    writeWholeFile(path, drawSheet(this.sheet));
    return true;
  }

  /** A name that the line chose and that cannot be written is the line's error; others end the program. */
  private writeFile(job: Job, file: string, png: Uint8Array): boolean {
    try {
      makeFolder(dirname(file));
      writeWholeFile(file, png);
      return true;
    } catch (error) {
      if (!(error instanceof Failure) || job.out === null) throw error;
      this.error(job.index, error.message);
      return false;
    }
  }

  private settings(job: Job, { width, height }: Pixels): ImageSettings {
    const { model, scale } = this.parts;
    return {
      prompt: job.prompt,
      ...(job.negative_prompt === '' ? {} : { negativePrompt: job.negative_prompt }),
      seed: job.seed,
      steps: job.steps,
      cfgScale: job.cfg_scale,
      sampler: job.sampler,
      width,
      height,
      model: model.name,
      more: { model_step: model.step, scale, ...intervalOf(job) },
    };
  }

  private record(
    job: Job,
    file: string | null,
    { width, height }: Pixels,
    seconds: number,
    truncated: boolean,
  ): ImageRecord {
    const { model } = this.parts;
    const { index, prompt, negative_prompt, seed, steps, cfg_scale, sampler } = job;
    const made = { steps, cfg_scale, sampler, model: model.name };
    const rounded = Number(seconds.toFixed(4));
    return {
      index,
      prompt,
      negative_prompt,
      seed,
      file,
      width,
      height,
      ...made,
      seconds: rounded,
      truncated,
      ...intervalOf(job),
    };
  }

  private put(data: string | Uint8Array): void {
    this.parts.makeRoom();
    stdout.write(data);
  }
}

function intervalOf({ guidance_interval }: Job): Pick<ImageRecord, 'guidance_interval'> {
  return guidance_interval === null ? {} : { guidance_interval };
}
