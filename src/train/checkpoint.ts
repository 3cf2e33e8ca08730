// Checkpoints of a run: everything that the next step depends on, in one folder that is there whole or not
// at all.
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { Backend, Region } from '../backend/backend.ts';
import {
  cleanLeftovers,
  makeFolder,
  readLatest,
  requireFreeBytes,
  writeFolderAtomically,
  writeLatest,
  writeWholeFile,
} from '../io/atomic.ts';
import { Failure } from '../io/failure.ts';
import { Safetensors } from '../io/safetensors.ts';
import { type TensorToWrite, writeSafetensors } from '../io/safetensors_write.ts';
import { STATE_SIZE } from '../plan/ops/optimizer.ts';
import type { Parameter } from '../plan/params.ts';
import { encodeNumbers, readNumbers } from '../plan/runner.ts';
import type { Provenance } from '../sample/model-file.ts';
import { saveModel } from '../sample/model-file.ts';
import { checkWeights, loadWeights, readParameter } from '../sample/weights.ts';
import { checkSeal, type Seal, sealOf } from './seal.ts';
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

/** Which checkpoints stay: the newest ones, and for ever those of every so many steps (0: none). */
export interface Keep {
  readonly keep_last: number;
  readonly keep_every: number;
}

/**
 * A checkpoint that is whole, but not for this program or recipe: an older one in its place would hide
 * that.
 */
class Unfit extends Failure {}

const nameOf = (step: number) => `step-${String(step).padStart(8, '0')}`;
const stepOf = (name: string) => Number(name.slice('step-'.length));

/** The folder of checkpoints of a run. */
export class Checkpoints {
  readonly folder: string;

  constructor(private readonly run: string) {
    this.folder = join(run, 'checkpoints');
  }

  /**
   * Name of the checkpoint to go on from: that in RUN/latest, else (killed before it was written) the
   * newest.
   */
  get latest(): string | undefined {
    return readLatest(this.run) ?? this.names().at(-1);
  }

  /** Makes the folder, and removes what a killed program left half-written, unless others write here. */
  open(alone = true): void {
    makeFolder(this.folder);
    if (alone) cleanLeftovers(this.folder);
  }

  /**
   * Writes a checkpoint of the trainer as it stands, then removes those that need not be kept. Of several
   * ranks
   * all call this at the same step: rank 0 writes what all hold, in the same files as alone.
   */
  save(
    backend: Backend,
    trainer: Trainer,
    state: RunState,
    from: Omit<Provenance, 'step'>,
    keep: Keep,
  ): void {
    const kinds = (['master', 'ema', 'm', 'v'] as const).filter((kind) => trainer.buffers[kind]);
    let held = 0;
    const next = () => trainer.whole(kinds[held++]!);
    try {
      if (trainer.share.rank === 0) this.write(backend, trainer, next, state, from, keep);
    } finally {
      while (held < kinds.length) next(); // the other ranks wait for it also where a disk is full
    }
  }

  /**
   * Writes the files. `next` gives buffers with all of master, ema (where there is one), m and v, in turn.
   */
  private write(
    backend: Backend,
    trainer: Trainer,
    next: () => Region,
    state: RunState,
    from: Omit<Provenance, 'step'>,
    keep: Keep,
  ): void {
    const { parameters } = trainer.network;
    const { ema } = trainer.buffers;
    const bytes = 4 * ((ema ? 2 : 1) * parameters.end + 2 * parameters.trainableEnd);
    requireFreeBytes(this.folder, bytes + 2 ** 20, 'a checkpoint');
    const provenance = { ...from, step: state.step };
    const name = nameOf(state.step);
    writeFolderAtomically(join(this.folder, name), (folder) => {
      saveModel(join(folder, 'model.safetensors'), { backend, parameters, weights: next() }, provenance);
      if (ema)
        saveModel(join(folder, 'ema.safetensors'), { backend, parameters, weights: next() }, provenance);
      const trained = parameters.list.filter((p) => !p.tags.frozen);
      const moments = (['m', 'v'] as const).flatMap((prefix) => {
        let region: Region | undefined;
        const buffer = () => (region ??= next());
        return trained.map((p) => moment(backend, buffer, p, prefix));
      });
      const block = readNumbers(backend, trainer.buffers.state, 0, 'real', STATE_SIZE);
      const optimizer: TensorToWrite[] = [
        ...moments,
        { name: 'state', dtype: 'F32', shape: [STATE_SIZE], data: Float32Array.from(block) },
      ];
      writeSafetensors(join(folder, 'optimizer.safetensors'), optimizer);
      const written = { version: VERSION, ...state, files: sealOf(folder) };
      writeWholeFile(join(folder, 'state.json'), `${JSON.stringify(written, null, 2)}\n`);
    });
    writeLatest(this.run, name);
    this.prune(keep, name);
  }

  /**
   * Loads the newest checkpoint that is whole; null where there is none at all. `warn` is told of those
   * that are
   * passed over. Throws a Failure where none can be used, and for one that a newer microdiff wrote.
   */
  restore(
    backend: Backend,
    trainer: Trainer,
    warn: (text: string) => void,
  ): { readonly name: string; readonly state: RunState } | null {
    const { latest } = this;
    if (!latest) return null;
    const older = this.names().filter((name) => name < latest);
    for (const [i, name] of [latest, ...older.toReversed()].entries()) {
      try {
        return { name, state: this.load(backend, trainer, name) };
      } catch (error) {
        if (!(error instanceof Failure)) throw error;
        const why = `this checkpoint cannot be used (${error.message})`;
        const what = join(this.folder, name);
        if (error instanceof Unfit) throw error;
        if (i === older.length) {
          throw new Failure({ what, why, fix: 'Begin anew in another folder (-o)' });
        }
        warn(`${what}: ${why}: the one before is taken`);
      }
    }
    return null;
  }

  /** Loads a checkpoint into the trainer. Throws a Failure that names the file where one is damaged. */
  load(backend: Backend, trainer: Trainer, name: string): RunState {
    const folder = join(this.folder, name);
    const { files, ...state } = readState(join(folder, 'state.json'));
    checkSeal(folder, files);
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
      using averaged = Safetensors.open(join(folder, 'ema.safetensors'));
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

  private prune({ keep_last, keep_every }: Keep, newest: string): void {
    const old = this.names().filter((n) => n <= newest);
    for (const name of old.slice(0, -keep_last)) {
      if (keep_every > 0 && stepOf(name) % keep_every === 0) continue;
      rmSync(join(this.folder, name), { recursive: true, force: true });
    }
  }

  /** Names of all checkpoints, the oldest first. */
  private names(): string[] {
    return readdirSync(this.folder)
      .filter((n) => /^step-\d+$/.test(n))
      .sort();
  }
}

function moment(backend: Backend, buffer: () => Region, p: Parameter, prefix: 'm' | 'v'): TensorToWrite {
  const data = () => [Float32Array.from(readParameter(backend, buffer(), p))];
  return { name: `${prefix}.${p.name}`, dtype: 'F32', shape: p.shape, data };
}

function readState(path: string): RunState & { files: Seal } {
  let parsed: Partial<RunState> & { version?: number; files?: Seal };
  try {
    parsed = JSON.parse(readFileSync(path, 'utf8'));
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new Failure({ what: path, why });
  }
  const { version = 0, step, images, seconds = 0, lossSum = 0, lossCount = 0, data = null } = parsed;
  const { files = {} } = parsed;
  if (version > VERSION) {
    throw new Unfit({ what: path, why: `was written by a newer microdiff (layout ${version})` });
  }
  if (!Number.isSafeInteger(step) || !Number.isSafeInteger(images)) {
    throw new Failure({ what: path, why: 'does not say how many steps and images are done' });
  }
  return { step: step!, images: images!, seconds, lossSum, lossCount, data, files };
}
