// Weights of a network in a backend's flat buffer: made, loaded from a file, read back parameter by
// parameter.
import type { Backend, Numbers, Region } from '../backend/backend.ts';
import { Failure } from '../io/failure.ts';
import type { Safetensors } from '../io/safetensors.ts';
import type { Parameter, Parameters } from '../plan/params.ts';
import { hostNumbers } from '../plan/runner.ts';

/** A zeroed flat buffer for all parameters (`trainable`: without the frozen ones). */
export function allocFlat(backend: Backend, parameters: Parameters, extent: 'all' | 'trainable'): Region {
  void parameters.list;
  const elements = extent === 'all' ? parameters.end : parameters.trainableEnd;
  return backend.alloc(elements * backend.elemBytes.act);
}

/** Values of one parameter out of a flat buffer. */
export function readParameter(backend: Backend, region: Region, p: Parameter): Numbers {
  const values = hostNumbers(backend, 'act', p.count);
  backend.read(region, p.base * backend.elemBytes.act, values);
  return values;
}

export function writeParameter(backend: Backend, region: Region, p: Parameter, values: Numbers): void {
  backend.write(region, p.base * backend.elemBytes.act, values);
}

/**
 * Compares names and shapes before anything is read. Every parameter must be there with its shape; tensors
 * that the network does not have are refused too, since a file of another model must not load in part.
 * `prefix` stands before the names in the file.
 */
export function checkWeights(parameters: Parameters, file: Safetensors, prefix = ''): void {
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

/** Fills a flat buffer from a file that fits (`checkWeights`), one tensor at a time. */
export function loadWeights(
  backend: Backend,
  region: Region,
  parameters: Parameters,
  file: Safetensors,
  prefix = '',
): void {
  checkWeights(parameters, file, prefix);
  const double = backend.elemBytes.act === 8;
  for (const p of parameters.list) {
    const name = prefix + p.name;
    writeParameter(backend, region, p, double ? file.readFloat64(name) : file.readFloat32(name));
  }
}
