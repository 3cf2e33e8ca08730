// Checkpoints of a run: everything that the next step depends on, in one folder that is there whole or not
// at all.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Backend, Region } from '../backend/backend.ts';
import { cleanLeftovers, makeFolder, readLatest, requireFreeBytes } from '../io/atomic.ts';
import { Failure } from '../io/failure.ts';
import { osCode, osFailure } from '../io/oserror.ts';
import { Safetensors } from '../io/safetensors.ts';
import type { TensorToWrite } from '../io/safetensors_write.ts';
import { STATE_SIZE } from '../plan/ops/optimizer.ts';
import type { Parameter } from '../plan/params.ts';
import { encodeNumbers, readNumbers } from '../plan/runner.ts';
import type { Provenance } from '../sample/model-file.ts';
import { modelMetadata } from '../sample/model-file.ts';
import { checkWeights, copyParameter, loadWeights } from '../sample/weights.ts';
import type { Beside, Held } from './beside.ts';
import {
  type CheckpointFiles,
  checkpointFolder,
  checkpointNames,
  type Keep,
  nameOf,
  writeCheckpoint,
} from './checkpoint-files.ts';
import { checkSeal, type Seal, sealOfState } from './seal.ts';
import { holds, writeShare } from './share.ts';
import type { Trainer } from './trainer.ts';

/** Version of the layout; a newer one is refused. */
const VERSION = 1;

/** What `state.json` holds beside the tensors. */
export interface RunState {
  readonly step: number;
  readonly images: number;
  /** Seconds of training so far, over all sittings. */
  readonly seconds: number;
  /** Losses since the last line of metrics.jsonl, so that a resume changes no line. */
  readonly lossSum: number;
  readonly lossCount: number;
  /** Hash of the pictures. */
  readonly data: string | null;
}

/** What is saved: the trainer's state, what stands beside it, and what stays of the older ones. */
export type Saved = [
  backend: Backend,
  trainer: Trainer,
  state: RunState,
  from: Omit<Provenance, 'step'>,
  keep: Keep,
];

/**
 * A checkpoint that is whole, but not for this program or recipe: an older one in its place would hide
 * that.
 */
class Unfit extends Failure {}

/** The folder of checkpoints of a run. */
export class Checkpoints {
  readonly folder: string;

  constructor(private readonly run: string) {
    this.folder = checkpointFolder(run);
  }

  /**
   * Name of the checkpoint to go on from: that in RUN/latest, else (killed before it was written) the
   * newest.
   */
  get latest(): string | undefined {
    return readLatest(this.run) ?? checkpointNames(this.run).at(-1);
  }

  /** Makes the folder, and removes what a killed program left half-written, unless others write here. */
  open(alone = true): void {
    makeFolder(this.folder);
    if (alone) cleanLeftovers(this.folder);
  }

  /**
   * Writes a checkpoint of the trainer as it stands, then removes those that need not be kept. Of several
   * ranks all call this at the same step: rank 0 writes what all hold, in the same files as alone.
   */
  save(...of: Saved): void {
    this.collect(of, writeHeld);
  }

  /**
   * The same beside training: when this returns, the state may change, and what it gives settles when the
   * files are written, or rejects. One at a time. Where there is no memory for a copy, all is as in `save`.
   */
  async saveBeside(beside: Beside, ...of: Saved): Promise<void> {
    const copied = this.collect(of, (content) => beside.copy(content) ?? writeHeld(content));
    if (copied) await beside.write(copied);
  }

  /**
   * Gives `use` what there is to write, on rank 0 alone: there the values of all ranks are collected while it
   * reads them, in the order of the files.
   */
  private collect<T>(
    [backend, trainer, state, from, keep]: Saved,
    use: (content: CheckpointFiles<Held>) => T,
  ): T | undefined {
    const kinds = (['master', 'ema', 'm', 'v'] as const).filter((kind) => trainer.buffers[kind]);
    let held = 0;
    const next = () => trainer.whole(kinds[held++]!);
    try {
      if (trainer.share.rank !== 0) return undefined;
      return use({ ...this.content(backend, trainer, next, state, from), keep });
    } finally {
      while (held < kinds.length) next(); // the other ranks wait for it also where a disk is full
    }
  }

  /**
   * What is written. `next` gives buffers with all of master, ema (where there is one), m and v, in turn.
   * Throws a Failure where the disk has no room for it.
   */
  private content(
    backend: Backend,
    trainer: Trainer,
    next: () => Region,
    state: RunState,
    from: Omit<Provenance, 'step'>,
  ): Omit<CheckpointFiles<Held>, 'keep'> {
    const { parameters } = trainer.network;
    const { ema } = trainer.buffers;
    const bytes = 4 * ((ema ? 2 : 1) * parameters.end + 2 * parameters.trainableEnd);
    requireFreeBytes(this.folder, bytes + 2 ** 20, 'a checkpoint');
    const metadata = modelMetadata({ ...from, step: state.step });
    const tensorsOf = (list: readonly Parameter[], prefix = '') => {
      let region: Region | undefined;
      return list.map((p): Held => {
        const read = (into: Float32Array) => {
          region ??= next();
          copyParameter(backend, region, p, into);
        };
        return { name: `${prefix}${p.name}`, shape: p.shape, count: p.count, read };
      });
    };
    const model = (name: string) => ({ name, tensors: tensorsOf(parameters.list), metadata });
    const trained = parameters.list.filter((p) => !p.tags.frozen);
    const block: Held = {
      ...{ name: 'state', shape: [STATE_SIZE], count: STATE_SIZE },
      read: (into) => into.set(readNumbers(backend, trainer.buffers.state, 0, 'real', STATE_SIZE)),
    };
    return {
      run: this.run,
      name: nameOf(state.step),
      files: [
        model('model.safetensors'),
        ...(ema ? [model('ema.safetensors')] : []),
        {
          name: 'optimizer.safetensors',
          tensors: [...tensorsOf(trained, 'm.'), ...tensorsOf(trained, 'v.'), block],
        },
      ],
      state: { version: VERSION, ...state },
    };
  }

  /**
   * Loads the newest checkpoint that is whole; null where there is none at all. `warn` is told of those that
   * are passed over. Throws a Failure where none can be used, and for one that a newer microdiff wrote.
   */
  restore(
    backend: Backend,
    trainer: Trainer,
    warn: (text: string) => void,
  ): { readonly name: string; readonly state: RunState } | null {
    const { latest } = this;
    if (!latest) return null;
    // Newer ones too: `latest` itself may be damaged.
    const others = checkpointNames(this.run).filter((name) => name !== latest);
    const names = [latest, ...others.toReversed()];
    for (const [i, name] of names.entries()) {
      try {
        return { name, state: this.load(backend, trainer, name) };
      } catch (error) {
        if (!(error instanceof Failure)) throw error;
        const why = `this checkpoint cannot be used (${error.message})`;
        const what = join(this.folder, name);
        if (error instanceof Unfit) throw error;
        const next = names[i + 1];
        if (next === undefined) {
          throw new Failure({ what, why, fix: 'Begin anew in another folder (-o)' });
        }
        warn(`${what}: ${why}: ${next < name ? 'the one before' : next} is taken`);
      }
    }
    return null;
  }

  /** Loads a checkpoint into the trainer. Throws a Failure that names the file where one is damaged. */
  load(backend: Backend, trainer: Trainer, name: string): RunState {
    const folder = join(this.folder, name);
    const { files, ...found } = readState(join(folder, 'state.json'));
    checkSeal(folder, files);
    // Where stages have got other lengths since, images have their places by the recipe as it is now.
    const state = { ...found, images: trainer.imagesOf(found.step) };
    const { totalSteps: total } = trainer;
    if (state.step > total) {
      const why = `${state.step} steps are done, and the recipe has ${total}`;
      throw new Unfit({ what: folder, why, fix: 'Give it as many, or begin anew in another folder (-o)' });
    }
    return this.read(backend, trainer, folder, state);
  }

  private read(backend: Backend, trainer: Trainer, folder: string, state: RunState): RunState {
    trainer.goTo(state.step, state.images);
    const { network, share } = trainer;
    const { parameters } = network;
    const { m, v, ema, state: block } = trainer.buffers;
    using model = Safetensors.open(join(folder, 'model.safetensors'));
    loadWeights(backend, trainer.buffers, parameters, model);
    if (ema) {
      // Until a stage averages them, averages are the weights: it may have been added since.
      const name = existsSync(join(folder, 'ema.safetensors')) ? 'ema' : 'model';
      using averaged = Safetensors.open(join(folder, `${name}.safetensors`));
      checkWeights(parameters, averaged);
      for (const p of parameters.list) {
        if (!holds(share, p)) continue;
        writeShare(backend, ema, share, p, averaged.readFloat32(p.name));
      }
    }
    using optimizer = Safetensors.open(join(folder, 'optimizer.safetensors'));
    for (const p of parameters.list) {
      if (p.tags.frozen || !holds(share, p)) continue;
      for (const [region, prefix] of [[m, 'm'] as const, [v, 'v'] as const]) {
        const values = optimizer.readFloat32(`${prefix}.${p.name}`);
        if (values.length !== p.count) {
          throw new Failure({ what: optimizer.path, why: `tensor ${prefix}.${p.name} has another shape` });
        }
        writeShare(backend, region, share, p, values);
      }
    }
    const numbers = optimizer.readFloat32('state');
    if (numbers.length !== STATE_SIZE) {
      throw new Failure({ what: optimizer.path, why: 'tensor state has another shape' });
    }
    backend.write(block, 0, encodeNumbers(backend, 'real', numbers));
    return state;
  }
}

/** Writes tensors out of the backend's memory, one after the other. */
function writeHeld(content: CheckpointFiles<Held>): void {
  const lazy = ({ name, shape, count, read }: Held): TensorToWrite => {
    const data = () => {
      const values = new Float32Array(count);
      read(values);
      return [values];
    };
    return { name, dtype: 'F32', shape, data };
  };
  writeCheckpoint({
    ...content,
    files: content.files.map((file) => ({ ...file, tensors: file.tensors.map(lazy) })),
  });
}

function readState(path: string): RunState & { files: Seal } {
  let parsed: Partial<RunState> & { version?: number; files?: Seal; seal?: string };
  try {
    parsed = JSON.parse(readFileSync(path, 'utf8')) ?? {};
  } catch (error) {
    if (osCode(error)) throw osFailure(error, path, 'read');
    const why = error instanceof Error ? error.message : String(error);
    throw new Failure({ what: path, why });
  }
  const { seal, ...written } = parsed;
  if (seal !== undefined && seal !== sealOfState(written)) {
    throw new Failure({ what: path, why: 'was changed since it was written' });
  }
  const { version = 0, step, images, seconds = 0, lossSum = 0, lossCount = 0, data = null } = written;
  const { files = {} } = written;
  if (version > VERSION) {
    throw new Unfit({ what: path, why: `was written by a newer microdiff (layout ${version})` });
  }
  if (!Number.isSafeInteger(step) || !Number.isSafeInteger(images)) {
    throw new Failure({ what: path, why: 'does not say how many steps and images are done' });
  }
  return { step: step!, images: images!, seconds, lossSum, lossCount, data, files };
}
