// What `sample` writes: PNGs with their settings in them, a record for each, and the sheet of all.

import { existsSync, readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { cleanLeftovers, makeFolder, writeWholeFile } from '../io/atomic.ts';
import { Failure } from '../io/failure.ts';
import { withCanvas } from '../io/figure/canvas.ts';
import { decodeRecord, type JsonRecord } from '../io/jsonl.ts';
import { osFailure } from '../io/oserror.ts';
import { checkWholePng, type Pixels, type PngText, pngTextOf } from '../io/png.ts';
import type { Job } from '../sample/batches.ts';
import { memberName, type Names } from '../sample/destination.ts';
import type { Model } from '../sample/model-file.ts';
import { keysOf, pictureFile, pictureTexts } from '../sample/picture-file.ts';
import type { ImageRecord } from '../sample/records.ts';
import type { Picture } from '../sample/sampler.ts';
import type { RecordStream } from './record-stream.ts';
import { version } from './version.ts';

type Size = Pick<Pixels, 'width' | 'height'>;

interface Parts {
  readonly records: RecordStream;
  /** null where nothing is written to files. */
  readonly names: Names | null;
  readonly scale: number;
  /** The size of pictures whose line and flags say none; null where it is not known. */
  readonly trained: Size | null;
  /** Pictures whose file is there are not made again. */
  readonly skipExisting: boolean;
  readonly model: Pick<Model, 'name' | 'step'>;
  /** Files that stand beside the model's. */
  readonly beside: Pick<ImageRecord, 'clip' | 'vae'>;
  /** Called with why a file that is there is made again. */
  readonly onReplaced: (why: string) => void;
}

/** What is to be done for one picture: drawn into `file`, nothing (its record is at hand), or no way. */
export type Placed =
  | { readonly file: string | null }
  | { readonly there: ImageRecord }
  | { readonly error: string };

/** Pictures that fit on a sheet; those after are left out, and that is said. */
export const SHEET_LIMIT = 1024;

export class PictureWriter {
  /** Lines that gave no picture. */
  errors = 0;
  pictures = 0;
  truncated = 0;
  /** Pictures that were there already. */
  skipped = 0;
  private readonly cleaned = new Set<string>();
  private readonly sheet: { pixels: Pixels; caption: string }[] = [];

  constructor(
    private readonly parts: Parts,
    private readonly withSheet: boolean,
  ) {}

  /** Gives a picture its name; in the order of the stream, since names depend on those before. */
  place(job: Job): Placed {
    const { names, skipExisting } = this.parts;
    if (!names) return { file: null };
    const place = names.place(job);
    if ('error' in place) return place;
    const record = skipExisting ? this.existing(job, place.path) : null;
    return record ? { there: record } : { file: place.path };
  }

  /** Writes the record of a picture that is there already. */
  skip(record: ImageRecord): void {
    this.skipped++;
    if (record.file !== null) this.clean(dirname(record.file));
    this.parts.records.known(record);
  }

  /** Writes one picture and its record; `seconds` is its share of the time of its batch. */
  write(job: Job, file: string | null, picture: Picture, seconds: number): void {
    if (!picture.pixels) {
      this.error(job.index, 'the picture is not finite (NaN): the model or the settings are out of range');
      return;
    }
    const { records } = this.parts;
    const drawn = { pixels: picture.pixels, truncated: picture.truncated };
    const { png, pixels } = pictureFile(job, drawn, { ...this.parts, version });
    if (file !== null && !this.writeFile(job, file, png)) return;
    this.pictures++;
    if (picture.truncated) this.truncated++;
    if (this.withSheet && this.sheet.length < SHEET_LIMIT) {
      this.sheet.push({ pixels: picture.pixels, caption: job.prompt });
    }
    records.picture(this.record(job, file, pixels, seconds, picture.truncated), png, memberName(job));
  }

  /** A line that gave no picture. */
  error(index: number, error: string): void {
    this.errors++;
    this.parts.records.error({ index, error });
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
      if (this.parts.skipExisting) this.clean(dirname(file));
      writeWholeFile(file, png);
      return true;
    } catch (error) {
      if (!(error instanceof Failure) || job.out === null) throw error;
      this.error(job.index, error.message);
      return false;
    }
  }

  /** The record of a picture whose file is there, whole and made with the same settings; else null. */
  private existing(job: Job, file: string): ImageRecord | null {
    if (!existsSync(file)) return null;
    try {
      const png = readFileSync(file);
      checkWholePng(png, file);
      const size = pngTextOf(png, file);
      const wanted = job.size ?? this.parts.trained;
      const { scale } = this.parts;
      const fits =
        wanted === null || (size.width === wanted.width * scale && size.height === wanted.height * scale);
      const was = fits ? exactSettings(size.texts) : undefined;
      const truncated = was?.truncated === true;
      const now = exactSettings(this.texts(job, size, truncated));
      if (was && Bun.deepEquals(comparable(was), comparable(now!))) {
        return { ...this.record(job, file, size, 0, truncated), skipped: true };
      }
      this.parts.onReplaced(`${file} was made with other settings: it is made again`);
    } catch (error) {
      const failure = osFailure(error, file, 'read');
      if (!(failure instanceof Failure)) throw failure;
      this.parts.onReplaced(`${failure.message}: it is made again`);
    }
    return null;
  }

  /** Removes what a killed run left half written in a folder. */
  private clean(folder: string): void {
    if (this.cleaned.has(folder)) return;
    this.cleaned.add(folder);
    cleanLeftovers(folder);
  }

  private texts(job: Job, size: Size, truncated: boolean): PngText[] {
    return pictureTexts(job, size, truncated, { ...this.parts, version });
  }

  private record(
    job: Job,
    file: string | null,
    { width, height }: Size,
    seconds: number,
    truncated: boolean,
  ): ImageRecord {
    const { model, scale } = this.parts;
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
      ...keysOf(job),
      ...(scale === 1 ? {} : { scale }),
      ...this.parts.beside,
    };
  }
}

/** What a picture says about itself in JSON. */
function exactSettings(texts: readonly PngText[]): JsonRecord | undefined {
  return decodeRecord(texts.find(({ keyword }) => keyword === 'microdiff')?.text ?? '');
}

/** Without what says nothing about how a picture was asked for. */
function comparable({ version: _, truncated: __, ...settings }: JsonRecord): JsonRecord {
  return settings;
}
