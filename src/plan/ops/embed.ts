// Op: sinusoids of the noise level, the input of the timestep embedder.
import { defineOp, need, refuse } from '../op.ts';
import { cols, count, type Tensor } from '../tensor.ts';
import { traceOf } from '../trace.ts';

export const timestepEmbeddingOp = defineOp({
  name: 'timestep_embedding',
  formula: 'y[n] = (cos(t[n] f_i), sin(t[n] f_i)), f_i = exp(-ln(10000) i / (dim / 2))',
  inputs: ['t'],
  outputs: ['y'],
  shape: ([t], { dim = 0 }) => {
    if (t?.shape.length !== 1 || dim % 2 !== 0)
      refuse('timestep_embedding', `dim ${dim} of t [N]`, t ?? null);
    return [{ shape: [count(t), dim], elem: 'act' }];
  },
  fields: { pointers: 'real t; act y', ints: 'dim ldy' },
  launch: (node) => {
    const y = need(node.outputs[0], 'timestep_embedding');
    return {
      pointers: [need(node.inputs[0], 'timestep_embedding'), y],
      ints: [cols(y), y.ld],
      blocks: y.shape[0] ?? 1,
    };
  },
  backward: 'noise levels are data',
  writes: ['set'],
  tolerance: { nmse: 1e-14, why: 'computed in double, rounded once' },
  flops: (node) => 4 * count(need(node.outputs[0], 'timestep_embedding')),
});

/** MicroDiT's TimestepEmbedder: sinusoids of t [N] real (c_noise), [N, dim]: cosines first, then sines. */
export function timestepEmbedding(t: Tensor, dim: number): Tensor {
  return traceOf(t).emit(timestepEmbeddingOp, [t], { dim })[0]!;
}
