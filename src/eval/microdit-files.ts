// Conformance of what needs no weights: positions, names and shapes of the presets, initial weights,
// schedules.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Backend } from '../backend/backend.ts';
import { Failure } from '../io/failure.ts';
import { Safetensors } from '../io/safetensors.ts';
import { activeParameters, expertModules } from '../model/count.ts';
import { sinCosPositions } from '../model/positions.ts';
import { linspace, presetRows } from '../recipe/presets.ts';
import { type ModelConfig, TABLES } from '../recipe/schema.ts';
import { checkValue } from '../recipe/field.ts';
import { declareNetwork, type Network } from '../sample/network.ts';
import { allocFlat, readParameter } from '../sample/weights.ts';
import { Group, type GroupResult, maxAbs, relative } from './conformance.ts';
import { JsonObject } from './json-file.ts';
import { readConfig } from './microdit-set.ts';
import type { ScheduleKind, TrainingCode } from './training-code.ts';

type Results = (GroupResult | null)[];

/**
 * `<case>.values` [rows, dim] of tokens `<case>.rows`; the case's name gives grid, dim, scale and base
 * size.
 */
export function checkPositions(path: string, bound: number): Results {
  using file = Safetensors.open(path);
  const group = new Group('positions', bound);
  for (const name of file.tensors.keys()) {
    const found = /^grid(\d+)_dim(\d+)_scale([\d.]+)_base(\d+)\.values$/.exec(
      name.replace(/(\d)p(\d)/, '$1.$2'),
    );
    if (!found) continue;
    const [grid = 0, dim = 0, scale = 1, base = 1] = found.slice(1).map(Number);
    const rows = file.readInt32(name.replace(/values$/, 'rows'));
    const values = file.readFloat64(name);
    if (
      dim % 4 !== 0 ||
      values.length !== rows.length * dim ||
      rows.some((row) => row < 0 || row >= grid ** 2)
    ) {
      throw new Failure({ what: path, why: `${name} does not fit its rows` });
    }
    if (grid * grid * dim > MOST_POSITIONS)
      throw new Failure({ what: path, why: `${name} is too large a grid` });
    const ours = sinCosPositions(dim, grid, scale, base);
    for (const [i, row] of rows.entries()) {
      const part = (from: Float64Array, at: number) => from.subarray(at * dim, (at + 1) * dim);
      group.add(maxAbs(part(ours, row), part(values, i)), `${name.replace(/\.values$/, '')} row ${row}`);
    }
  }
  return [group.result()];
}

const MOST_POSITIONS = 2 ** 27;

/** Every preset of the file: names, shapes, their order, counts, buffers, expert modules. */
export function checkModelShapes(path: string): Results {
  const group = new Group('model shapes', 0);
  for (const [title, entry] of JsonObject.read(path).objects()) {
    const config = presetConfig(title.split(' ')[0]!, entry.maybe('args'));
    group.add(shapeFaults(declareNetwork(config, null), entry), title);
  }
  return [group.result()];
}

/** A preset of the reference with the arguments that its function was called with. */
function presetConfig(name: string, args: JsonObject | null): ModelConfig {
  const preset = Object.hasOwn(presetRows, name) ? presetRows[name]?.model : undefined;
  if (!preset) throw new Failure({ what: name, why: 'is no preset' });
  const keys: Record<string, unknown> = {};
  for (const key of args?.keys ?? []) {
    const spread = { qkv_ratio: 'qkv_multipliers', mlp_ratio: 'ffn_multipliers' }[key];
    if (spread) {
      const [first = 1, last = 1] = args!.numbers(key);
      keys[spread] = linspace(first, last, preset.depth ?? 1);
    } else keys[key] = args!.get(key);
  }
  const defaults = Object.fromEntries(Object.entries(TABLES.model).map(([key, row]) => [key, row.default]));
  for (const [key, value] of Object.entries(keys)) {
    const row = Object.hasOwn(TABLES.model, key) && TABLES.model[key as keyof typeof TABLES.model];
    if (!row) throw new Failure({ what: `${name}: args`, why: `${key} is no key of a model` });
    checkValue(row, value, `${name}: ${key}`);
  }
  return bounded(name, { ...defaults, ...preset, ...keys } as ModelConfig); // every key has passed its check
}

/** A hostile file must not keep the machine busy for ever. */
function bounded(name: string, config: ModelConfig): ModelConfig {
  if (Math.max(config.depth, config.patch_mixer_depth) > 1000) {
    throw new Failure({ what: name, why: 'has more than 1000 blocks' });
  }
  return config;
}

/** Differences between a network and its description. */
function shapeFaults(network: Network, entry: JsonObject): number {
  const { parameters, dit } = network;
  const list = parameters.list;
  const buffers = list.filter((p) => p.tags.frozen);
  const trained = list.filter((p) => !p.tags.frozen);
  const ours: Record<string, unknown> = {
    parameters: parameters.trainable,
    parameter_tensors: trained.length,
    buffers: buffers.map((p) => p.name),
    buffer_elements: buffers.reduce((sum, p) => sum + p.count, 0),
    moe_modules: expertModules(dit),
    parameter_names_containing_moe: trained.map((p) => p.name).filter((name) => name.includes('moe')),
    parameters_active_per_token: activeParameters(parameters, dit.config),
  };
  let faults = 0;
  for (const [key, value] of Object.entries(ours)) {
    if (entry.has(key) && JSON.stringify(entry.get(key)) !== JSON.stringify(value)) faults += 1;
  }
  const state = entry.maybe('state_dict');
  if (!state) return faults;
  const tensors = list.map((p) => `${p.name} [${p.shape}]`);
  const theirs = state.keys.map((name) => `${name} [${state.numbers(name)}]`);
  const places = Math.max(tensors.length, theirs.length);
  for (let i = 0; i < places; i++) if (tensors[i] !== theirs[i]) faults += 1;
  return faults;
}

/** Learning rates: multiplier, rate, and the lagged rates of the reference's trainer. */
export function checkSchedules(path: string, training: TrainingCode, bound: number): Results {
  const group = new Group('learning rates', bound);
  const file = JsonObject.read(path);
  for (const name of file.keys) {
    if (typeof file.get(name) === 'string') continue; // the note
    const entry = file.object(name);
    const alpha = entry.number('alpha', 1);
    const course = {
      kind: scheduleKind(entry),
      warmupSteps: entry.number('t_warmup', 0),
      alphaF: entry.number('alpha_f', 0),
      steps: entry.number('max_duration'),
    };
    const times = entry.numbers('timestamp_batch');
    const check = (key: string, factor: number, lagged: boolean) => {
      for (const [i, want] of entry.numbers(key).entries()) {
        const ours = factor * training.rateMultiplier({ ...course, lagged }, times[i] ?? Number.NaN);
        group.add(relative(ours, want), `${name} ${key}[${i}]`);
      }
    };
    check('multiplier', alpha, false);
    check('lr', alpha * entry.number('base_lr', 1), false);
    check('lr_used_by_reference_trainer_for_batch_index', alpha * entry.number('base_lr', 1), true);
  }
  return [group.result()];
}

function scheduleKind(entry: JsonObject): ScheduleKind {
  switch (entry.text('kind')) {
    case 'Constant':
      return 'constant';
    case 'ConstantWithWarmup':
      return 'warmup-constant';
    case 'CosineAnnealingWithWarmup':
      return 'warmup-cosine';
    default:
      throw new Failure({ what: entry.at('kind'), why: `${entry.text('kind')} is no known schedule` });
  }
}

/** Seeds of our own initialisation that are compared. */
const SEEDS = [0, 1, 2];
const MOST_PARAMETERS = 2e9;
/** Below so many elements the extremes say nothing. */
const MANY = 100;

export interface InitBounds {
  /** In standard errors. */
  readonly deviations: number;
  /** Largest ratio of extremes. */
  readonly extremes: number;
}

/**
 * Our initial weights against the reference's: means in standard errors std / sqrt(n), deviations relative in
 * 1 / sqrt(2 n), largest elements as ratios, constants exactly.
 */
export function checkInitialWeights(
  path: string,
  { backend, training, bounds }: { backend: Backend; training: TrainingCode; bounds: InitBounds },
): Results {
  const groups = {
    mean: new Group('initial means', bounds.deviations),
    std: new Group('initial deviations', bounds.deviations),
    extreme: new Group('initial extremes', bounds.extremes),
    constant: new Group('initial constants', 0),
  };
  const file = JsonObject.read(path);
  for (const name of file.keys) {
    if (typeof file.get(name) === 'string') continue; // the legend
    const network = declareNetwork(namedConfig(path, name), null);
    if (network.parameters.trainable > MOST_PARAMETERS) {
      throw new Failure({
        what: file.at(name),
        why: `${network.parameters.trainable} parameters are too many`,
      });
    }
    const weights = allocFlat(backend, network.parameters, 'all');
    const stats = file.object(name);
    for (const seed of SEEDS) {
      training.initialiseWeights(backend, weights, network.parameters, seed);
      for (const [key, entry] of stats.objects()) {
        const p = network.parameters.find(key);
        const values = p ? readParameter(backend, weights, p) : new Float64Array(1).fill(Number.NaN);
        compareInit(groups, `${key} seed ${seed}`, measure(values), theirStats(entry));
      }
    }
    weights.free();
  }
  return Object.values(groups).map((group) => group.result());
}

/** A preset with the arguments that manifest.json names, or the config of a set of that name. */
function namedConfig(path: string, name: string): ModelConfig {
  const info = join(path, '..', `${name}.info.json`);
  if (!Object.hasOwn(presetRows, name) && existsSync(info)) {
    return bounded(name, readConfig(JsonObject.read(info).object('config')));
  }
  const config: Record<string, unknown> = { ...presetConfig(name, null) };
  const manifest = join(path, '..', 'manifest.json');
  const words = existsSync(manifest)
    ? JsonObject.read(manifest).maybe('init_stats')?.maybe('configs')?.get(name)
    : undefined;
  for (const [, key = '', value] of String(words ?? '').matchAll(/(\w+) (-?[\d.]+(?:e-?\d+)?)/g)) {
    if (key in config) config[key] = Number(value);
  }
  return bounded(name, config as ModelConfig); // a preset with some of its numbers changed
}

interface Stats {
  readonly n: number;
  readonly mean: number;
  readonly std: number;
  readonly min: number;
  readonly max: number;
}

function measure(values: ArrayLike<number>): Stats {
  const n = values.length;
  let [sum, squares, min, max] = [0, 0, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (let i = 0; i < n; i++) {
    const v = values[i]!;
    sum += v;
    squares += v * v;
    if (!(v >= min)) min = v;
    if (!(v <= max)) max = v;
  }
  const mean = sum / n;
  return { n, mean, std: Math.sqrt(Math.max(0, squares / n - mean * mean)), min, max };
}

/** The average over the seeds of a parameter: `[mean, std, min, max, left out]` each. */
function theirStats(entry: JsonObject): Stats {
  const rows = entry.get('seeds');
  const seeds = (Array.isArray(rows) ? rows : [])
    .filter((row) => Array.isArray(row))
    .map((row) => row.map(Number));
  const column = (i: number) => seeds.map((row) => row[i] ?? Number.NaN);
  const average = (list: number[]) => list.reduce((a, b) => a + b, 0) / list.length;
  return {
    n: entry.numbers('shape').reduce((a, b) => a * b, 1),
    mean: average(column(0)),
    std: average(column(1)),
    min: average(column(2)),
    max: average(column(3)),
  };
}

function compareInit(
  groups: Readonly<Record<'mean' | 'std' | 'extreme' | 'constant', Group>>,
  what: string,
  ours: Stats,
  theirs: Stats,
): void {
  if (theirs.n !== ours.n) {
    groups.constant.add(Number.NaN, `${what}: not of that shape`);
    return;
  }
  if (theirs.std === 0) {
    groups.constant.add(Math.max(Math.abs(ours.min - theirs.mean), Math.abs(ours.max - theirs.mean)), what);
    return;
  }
  groups.mean.add((Math.abs(ours.mean) * Math.sqrt(ours.n)) / theirs.std, what);
  groups.std.add(relative(ours.std, theirs.std) * Math.sqrt(2 * ours.n), what);
  if (ours.n < MANY) return;
  for (const [a, b] of [
    [ours.max, theirs.max],
    [ours.min, theirs.min],
  ] as const) {
    groups.extreme.add(a * b > 0 ? Math.max(a / b, b / a) : Number.NaN, what);
  }
}
