// Weights of a network in a backend's flat buffers: made, loaded from a file, rounded to the compute type,
// read back parameter by parameter.
import type { Backend, Elem, ElemBytes, Region } from '../backend/backend.ts';
import { Failure } from '../io/failure.ts';
import type { TensorFile } from '../io/tensor-file.ts';
import type { Parameter, Parameters } from '../plan/params.ts';
import { castInto } from '../plan/ops/copy.ts';
import { freeze } from '../plan/plan.ts';
import { encodeNumbers, readNumbers, Runner } from '../plan/runner.ts';
import { Trace } from '../plan/trace.ts';

/**
 * Weights as plans read them: `weight` [end] in the compute type, `master` in float32, as far as plans read
 * it (routers) or all of it. Where both kinds are equal they are one region.
 */
export interface LoadedWeights {
  readonly weight: Region;
  readonly master: Region;
}

/** Whether the compute type differs from float32, so that there are two buffers. */
export function separate(elemBytes: ElemBytes): boolean {
  return elemBytes.act !== elemBytes.real;
}

/** A zeroed flat buffer of real numbers for all parameters (`trainable`: without the frozen ones). */
export function allocFlat(backend: Backend, parameters: Parameters, extent: 'all' | 'trainable'): Region {
  void parameters.list;
  const elements = extent === 'all' ? parameters.end : parameters.trainableEnd;
  return backend.alloc(elements * backend.elemBytes.real);
}

/** Memory for weights to sample with: float32 only for what is read in it. */
export function allocWeights(backend: Backend, parameters: Parameters): LoadedWeights {
  void parameters.list;
  const { act, real } = backend.elemBytes;
  const weight = backend.alloc(parameters.end * act);
  if (!separate(backend.elemBytes)) return { weight, master: weight };
  return { weight, master: backend.alloc(parameters.masterEnd * real) };
}

/**
 * Weights to compute with, of a flat buffer of real numbers: the same memory, or a rounded copy beside it.
 */
export function computeWeights(backend: Backend, parameters: Parameters, master: Region): LoadedWeights {
  if (!separate(backend.elemBytes)) return { weight: master, master };
  const weights = { weight: backend.alloc(parameters.end * backend.elemBytes.act), master };
  roundWeights(backend, parameters, weights);
  return weights;
}

/** Makes `weight` the rounded copy of `master`, all of it. Nothing to do where they are one. */
export function roundWeights(backend: Backend, parameters: Parameters, weights: LoadedWeights): void {
  if (weights.weight === weights.master) return;
  const trace = new Trace();
  const flat = (space: string, elem: Elem) => trace.fixed(space, space, [parameters.end], 0, { elem });
  castInto(flat('master', 'real'), flat('weight', 'act'));
  const plan = freeze('round', trace, { elemBytes: backend.elemBytes });
  const runner = new Runner(backend, plan, regionsOf(weights));
  runner.run();
  runner.free();
}

/** The regions by the names that plans bind. */
export function regionsOf({ weight, master }: LoadedWeights): Record<string, Region> {
  return { weight, master };
}

export function freeWeights({ weight, master }: LoadedWeights): void {
  weight.free();
  if (master !== weight) master.free();
}

/** Values of one parameter out of a flat buffer of real numbers. */
export function readParameter(backend: Backend, region: Region, p: Parameter): Float32Array | Float64Array {
  const values = readNumbers(backend, region, p.base * backend.elemBytes.real, 'real', p.count);
  if (values instanceof Int32Array) throw new Failure({ what: p.name, why: 'was read as integers' });
  return values;
}

/** The same into an array [count] of the caller's, rounded where the backend keeps float64. */
export function copyParameter(backend: Backend, region: Region, p: Parameter, into: Float32Array): void {
  const { real } = backend.elemBytes;
  if (real === 4) backend.read(region, p.base * real, into);
  else into.set(readParameter(backend, region, p));
}

export function writeParameter(
  backend: Backend,
  region: Region,
  p: Parameter,
  values: ArrayLike<number>,
): void {
  backend.write(region, p.base * backend.elemBytes.real, encodeNumbers(backend, 'real', values));
}

/** Writes one parameter in both forms, as far as the buffers hold it. */
export function writeWeight(
  backend: Backend,
  to: LoadedWeights,
  p: Parameter,
  values: ArrayLike<number>,
): void {
  const { act, real } = backend.elemBytes;
  if ((p.base + p.count) * real <= to.master.bytes) writeParameter(backend, to.master, p, values);
  if (to.weight !== to.master) {
    backend.write(to.weight, p.base * act, encodeNumbers(backend, 'act', values));
  }
}

/**
 * Compares names and shapes before anything is read. Every parameter must be there with its shape; tensors
 * that the network does not have are refused too, since a file of another model must not load in part.
 * `prefix` stands before the names in the file.
 */
export function checkWeights(parameters: Parameters, file: TensorFile, prefix = ''): void {
  const wanted = new Set(parameters.list.map((p) => prefix + p.name));
  const stranger = [...file.tensors.keys()].find((name) => name.startsWith(prefix) && !wanted.has(name));
  const refuse = (why: string) => {
    const fix = 'The file is of another model: check the recipe, or use a file of this one';
    return new Failure({ what: file.path, why, fix });
  };
  for (const p of parameters.list) {
    const entry = file.tensors.get(prefix + p.name);
    if (!entry) {
      const other = stranger ? ` (it has ${stranger} instead)` : '';
      throw refuse(`tensor ${p.name} is missing${other}`);
    }
    if (entry.shape.join() !== p.shape.join()) {
      const shapes = `[${entry.shape.join(', ')}], the model needs [${p.shape.join(', ')}]`;
      throw refuse(`tensor ${p.name} has shape ${shapes}`);
    }
  }
  if (stranger) throw refuse(`tensor ${stranger} does not belong to this model`);
}

/** Fills weights from a file that fits (`checkWeights`), one tensor at a time. */
export function loadWeights(
  backend: Backend,
  to: LoadedWeights,
  parameters: Parameters,
  file: TensorFile,
  prefix = '',
): void {
  checkWeights(parameters, file, prefix);
  readWeights(backend, to, parameters, file, prefix);
}

/** The same for a file in which all of them have been found; what else is in it is left alone. */
export function readWeights(
  backend: Backend,
  to: LoadedWeights,
  parameters: Parameters,
  file: TensorFile,
  prefix: string,
): void {
  // One buffer for all: fresh memory for each tensor costs more than reading it.
  const largest = parameters.list.reduce((most, { count }) => Math.max(most, count), 0);
  const buffer = backend.elemBytes.real === 8 ? new Float64Array(largest) : new Float32Array(largest);
  for (const p of parameters.list) {
    const part = buffer.subarray(0, p.count);
    if (part instanceof Float64Array) file.readFloat64(prefix + p.name, part);
    else file.readFloat32(prefix + p.name, part);
    writeWeight(backend, to, p, part);
  }
}
