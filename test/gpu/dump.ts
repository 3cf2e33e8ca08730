// Writes down the training of a small model in bfloat16 for runner.c: two steps, and at the end weights and
// first moments, in which no number may stand that is not finite.
//
//   bun test/gpu/dump.ts FOLDER
import { join } from 'node:path';
import gemm from '../../build/gpu/gemm.fatbin' with { type: 'file' };
import { embeddedGpuCode } from '../../ffi/gpu-code.ts';
import { Recorder } from './recorder.ts';
import { smallTraining } from './small-training.ts';

const chosen = process.env.MICRODIFF_GPU_CODE;
const products = chosen ? join(chosen, 'gemm.fatbin') : gemm;
const folder = process.argv[2];
if (!folder) throw new Error('usage: bun test/gpu/dump.ts FOLDER');
const recorder = new Recorder({ act: 2, real: 4, i32: 4 });
for (const region of Object.values(smallTraining(recorder, 2))) {
  recorder.read(region, 0, new Float32Array(region.bytes / 4));
}
recorder.save(folder, await embeddedGpuCode('bf16'), { 'gemm.fatbin': await Bun.file(products).bytes() });
