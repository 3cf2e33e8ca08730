// Weights of Inception out of a file with pytorch-fid's names: shapes checked, every batch norm folded into
// the convolution before it, in float64.
import { Failure } from '../io/failure.ts';
import type { ConvLayer, Inception } from './network.ts';

/** A file of weights: its list of tensors, and their values. */
export interface InceptionFile {
  readonly path: string;
  readonly tensors: ReadonlyMap<string, { readonly shape: readonly number[] }>;
  readFloat64(name: string): Float64Array;
}

const NORM_EPS = 1e-3;
/** The classifier, which features do without. */
const UNUSED: Readonly<Record<string, readonly number[]>> = { 'fc.weight': [1008, 2048], 'fc.bias': [1008] };

/** Names and shapes of the state dict, in its order; `num_batches_tracked` may be missing in a file. */
export function stateDict({ layers }: Inception): Map<string, readonly number[]> {
  const shapes = layers.flatMap(({ name, form, inn, out }): [string, readonly number[]][] => [
    [`${name}.conv.weight`, [out, inn, form.kh, form.kw]],
    [`${name}.bn.weight`, [out]],
    [`${name}.bn.bias`, [out]],
    [`${name}.bn.running_mean`, [out]],
    [`${name}.bn.running_var`, [out]],
    [`${name}.bn.num_batches_tracked`, []],
  ]);
  return new Map([...shapes, ...Object.entries(UNUSED)]);
}

/** Every tensor is there with its shape, and no other; else a Failure that names the first fault. */
export function checkInceptionFile(network: Inception, file: InceptionFile): void {
  const fix = 'Use pt_inception-2015-12-05-6726825d.pth: `microdiff pull fid-inception`';
  const refuse = (why: string) => new Failure({ what: file.path, why, fix });
  const wanted = stateDict(network);
  for (const [name, shape] of wanted) {
    const entry = file.tensors.get(name);
    if (!entry && name.endsWith('.num_batches_tracked')) continue;
    if (!entry) throw refuse(`tensor ${name} is missing`);
    if (entry.shape.join() !== shape.join()) {
      throw refuse(`tensor ${name} has shape [${entry.shape.join(', ')}], not [${shape.join(', ')}]`);
    }
  }
  const stranger = [...file.tensors.keys()].find((name) => !wanted.has(name));
  if (stranger) throw refuse(`tensor ${stranger} does not belong to this network`);
}

/** Weight [out, kh, kw, in] and bias [out] of a layer: norm(conv(x)) = conv'(x) + bias. */
export function foldLayer(
  { name, form, inn, out }: ConvLayer,
  file: InceptionFile,
): { weight: Float64Array; bias: Float64Array } {
  const read = (part: string) => file.readFloat64(`${name}.${part}`);
  const [raw, gain, shift] = [read('conv.weight'), read('bn.weight'), read('bn.bias')];
  const [mean, variance] = [read('bn.running_mean'), read('bn.running_var')];
  const area = form.kh * form.kw;
  const weight = new Float64Array(raw.length);
  const bias = new Float64Array(out);
  for (let o = 0; o < out; o++) {
    const factor = gain[o]! / Math.sqrt(variance[o]! + NORM_EPS);
    bias[o] = shift[o]! - mean[o]! * factor;
    for (let c = 0; c < inn; c++) {
      for (let i = 0; i < area; i++) {
        weight[(o * area + i) * inn + c] = raw[(o * inn + c) * area + i]! * factor;
      }
    }
  }
  return { weight, bias };
}
