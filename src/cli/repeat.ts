// `sample --from`: the settings of an old picture, from its PNG or from the record that was printed for it,
// and what is said where the picture may not come out the same.
import { readFileSync, statSync } from 'node:fs';
import { EXIT, Failure } from '../io/failure.ts';
import { decodeRecord } from '../io/jsonl.ts';
import { osFailure } from '../io/oserror.ts';
import { type ImageSettings, settingsOf, settingsOfRecord } from '../io/parameters.ts';
import { isPng, readPngText } from '../io/png.ts';
import { SAMPLERS, type SamplerName } from '../diffusion/solvers.ts';
import { type FoundModel, findModel } from '../sample/find-model.ts';
import type { Model } from '../sample/model-file.ts';
import type { Parts } from '../sample/published.ts';
import type { Extent } from '../sample/size.ts';
import type { RngName } from '../sample/torch-noise.ts';
import type { Log } from './log.ts';
import { version } from './version.ts';

/** Records have a few hundred bytes; prompts may be long. */
const MAX_BYTES = 16 * 2 ** 20;

export class OldPicture {
  private constructor(
    private readonly path: string,
    readonly settings: Partial<ImageSettings>,
    private readonly kind: 'png' | 'record' | 'none',
  ) {}

  /** The picture or record at `path`; without a path one that says nothing. */
  static read(path: string | undefined): OldPicture {
    if (path === undefined) return new OldPicture('', {}, 'none');
    if (!isPng(path)) return new OldPicture(path, settingsOfRecord(path, readRecord(path)), 'record');
    const settings = settingsOf(path, readPngText(path).texts);
    if (settings) return new OldPicture(path, settings, 'png');
    throw new Failure({
      what: `--from ${path}`,
      why: 'the picture does not say how it was made',
      fix: 'Use a PNG that microdiff sample wrote',
    });
  }

  /** The model that is meant: `given` by the user, else the picture's, else the one that ships. */
  findModel(given: string | undefined): FoundModel {
    const { model } = this.settings;
    if (given !== undefined || model === undefined) return findModel(given);
    try {
      return findModel(model);
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      const why = `the picture was made with the model ${model}, which is not here`;
      throw new Failure({
        what: `--from ${this.path}`,
        why,
        fix: 'Say where it is with -m',
        code: EXIT.usage,
      });
    }
  }

  /** Says what is not as it was: the version, or how far the model was trained. `given`: by -m. */
  warn(log: Log, given: string | undefined, { step }: Pick<Model, 'step'>): void {
    const more = this.settings.more ?? {};
    const ours = `microdiff ${version}`;
    if (this.kind === 'png' && more.version === undefined) {
      log.warn(`${this.path} was made by another program: its settings are used, the picture will differ`);
    } else if (more.version !== undefined && more.version !== ours) {
      log.warn(`${this.path} was made by ${more.version}, this is ${ours}: the picture may differ`);
    }
    if (given === undefined && more.model_step !== undefined && more.model_step !== step) {
      const now = step === null ? 'at no known step' : `at step ${step}`;
      log.warn(`the model was at step ${more.model_step} when ${this.path} was made, and is ${now} now`);
    }
  }

  /** The picture's sampler; one that is not ours gives way to the recipe's, and that is said. */
  sampler(recipes: SamplerName, log: Log): SamplerName {
    const { sampler } = this.settings;
    if (sampler === undefined) return recipes;
    const known = SAMPLERS.find((name) => name === sampler.toLowerCase());
    if (known) return known;
    log.warn(`the picture was made with the sampler ${sampler}; it is repeated with ${recipes}`);
    return recipes;
  }

  /** Files of text tower and autoencoder: those given by flags, else the picture's. */
  parts({ clip = this.text('clip'), vae = this.text('vae') }: Parts) {
    return { clip, vae };
  }

  private text(key: string): string | undefined {
    const value = this.settings.more?.[key];
    return typeof value === 'string' ? value : undefined;
  }

  /** Its size before its pixels were enlarged, where it was made by us and with the model in use. */
  size(model: string): Extent | null {
    const { width = 0, height = 0, more = {} } = this.settings;
    const ours = this.kind === 'record' || more.version !== undefined;
    if (!ours || this.settings.model !== model) return null;
    const size = { width: width / this.scale, height: height / this.scale };
    return Number.isInteger(size.width) && Number.isInteger(size.height) && width > 0 && height > 0
      ? size
      : null;
  }

  /** What drew its noise. */
  get rng(): RngName {
    return this.settings.more?.rng === 'torch-cuda' ? 'torch-cuda' : 'philox';
  }

  /** By what factor its pixels were enlarged. */
  get scale(): number {
    const scale = this.settings.more?.scale;
    return typeof scale === 'number' && Number.isInteger(scale) && scale >= 1 && scale <= 64 ? scale : 1;
  }
}

/** The one JSON record in a file: an object, or a line of a record stream. */
function readRecord(path: string): Readonly<Record<string, unknown>> {
  const failure = (why: string, fix: string) => new Failure({ what: `--from ${path}`, why, fix });
  const fix = 'Name a PNG or a record that microdiff sample wrote';
  let text: string;
  try {
    if (statSync(path).size > MAX_BYTES) throw failure('too large for a record', fix);
    text = readFileSync(path, 'utf8').trim();
  } catch (error) {
    throw osFailure(error, path, 'read');
  }
  const lines = text.split('\n').filter((line) => line.trim() !== '');
  const record = decodeRecord(text);
  if (!record && lines.length > 1 && lines.every((line) => decodeRecord(line))) {
    throw failure(`holds ${lines.length} records`, 'Put the line of one picture in a file of its own');
  }
  if (!record) throw failure('neither a PNG nor a JSON record', fix);
  if ('error' in record) throw failure('the record of a picture that could not be made', fix);
  if (typeof record.prompt !== 'string') throw failure('the record has no prompt', fix);
  return record;
}
