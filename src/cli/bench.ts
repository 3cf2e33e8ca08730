// Command: speed of a training step or of a forward pass on this machine.

import { encodeRecord } from '../io/jsonl.ts';
import { bool, int } from '../recipe/field.ts';
import type { BenchResult } from '../train/bench.ts';
import { command } from './command.ts';
import { DEVICE_FLAGS, openDevice } from './device.ts';
import { flag, SHARED } from './flags.ts';
import { stdout } from './stdout.ts';
import { findWorkload, type FoundWorkload, WORKLOAD_FLAGS } from './workload.ts';

const USUAL = { train: { mask: 0.75, batch: 8 }, forward: { mask: 0, batch: 4 } };
/** Seconds of the reference for what it was timed with: MicroDiT_Tiny_2 and the numbers above. */
const REFERENCE_SECONDS = { train: 2.56, forward: 0.86 };

export const bench = command({
  name: 'bench',
  summary: 'Measures a whole training step, or a forward pass, on this machine',
  flags: {
    ...WORKLOAD_FLAGS,
    repeats: flag(int(5, { min: 1, max: 1000 }, 'Measured repeats after one to warm up')),
    ops: flag(bool(false, 'Also list the time of every kind of op')),
    json: SHARED.json,
    ...DEVICE_FLAGS,
  },
  args: [{ name: 'what', meaning: 'What to measure', required: true, options: ['train', 'forward'] }],
  examples: [
    ['microdiff bench train --preset MicroDiT_Tiny_2 --latent 32 --mask 0.75 --batch 8', 'a training step'],
    ['microdiff bench forward --batch 4 --json', 'a forward pass without mask, for programs'],
    ['microdiff bench train --recipe emoji --ops', 'the first stage of a recipe, and where its time goes'],
  ],
  async run({ args, values, log }) {
    const what = args[0] === 'forward' ? 'forward' : 'train';
    const work = findWorkload(values, USUAL[what], process.env);
    const backend = await openDevice(values);
    const { openNative } = await import('../../ffi/native.ts');
    const { threads } = await openNative();
    const { benchTrain, benchForward } = await import('../train/bench.ts');
    const referenceSeconds = isReference(work, what) ? REFERENCE_SECONDS[what] : null;
    log.info(`${what} ${work.name}: 1 + ${values.repeats} repeats`);
    const options = { ...work, backend, threads, repeats: values.repeats, ops: values.ops, referenceSeconds };
    const result = what === 'train' ? benchTrain(options) : benchForward(options);
    const { ops, ...numbers } = result;
    if (values.json) stdout.line(encodeRecord({ ...numbers, ...(values.ops ? { ops } : {}) }));
    else stdout.write(page(result, what, ops));
    return 0;
  },
});

/** True for exactly the configuration that the reference was timed with. */
function isReference(work: FoundWorkload, what: keyof typeof USUAL): boolean {
  const { recipe, stage, network } = work;
  const { recipe: wanted } = findWorkload(
    { preset: 'MicroDiT_Tiny_2', recipe: undefined, latent: 32, mask: undefined, batch: undefined, set: [] },
    USUAL[what],
    {},
  );
  const { mask, batch } = USUAL[what];
  return (
    Bun.deepEquals(recipe.model, wanted.model) &&
    recipe.text.length === wanted.text.length &&
    network.words === null &&
    recipe.train.micro_batch === 0 &&
    recipe.optimizer.ema === 0 &&
    stage.mask_ratio === mask &&
    stage.batch_size === batch
  );
}

function page(result: BenchResult, what: string, ops: BenchResult['ops']): string {
  const { ms_per_step: ms, ms_per_step_best: best, vs_reference: ratio } = result;
  const rate = result.sgemm_gflops.toFixed(0);
  const rows = [
    ['images/s', result.images_per_s.toFixed(2)],
    [`ms a ${what === 'train' ? 'step' : 'pass'}`, `${ms.toFixed(0)} (best ${best.toFixed(0)})`],
    ['TFLOP/s', `${result.tflops.toFixed(3)} (${result.gflop_per_image.toFixed(1)} GFLOP an image)`],
    ['MFU', `${(100 * result.mfu).toFixed(0)} % of what 1024^3 products reach here (${rate} GFLOP/s)`],
    ['device', `${result.device}, ${result.threads} threads`],
    ...(ratio === null ? [] : [['reference', `${ratio.toFixed(2)} times its speed, scaled by the products`]]),
  ];
  const lines = rows.map(([name, value]) => `${name!.padEnd(12)}${value}`);
  if (ops.length > 0) {
    lines.push('', `${'op'.padEnd(20)} calls        ms   share  GFLOP/s     GB/s   (best of each launch)`);
  }
  for (const { op, calls, ms: time, share, gflops, gbytes_per_s } of ops) {
    const numbers = [
      String(calls).padStart(5),
      time.toFixed(2).padStart(9),
      `${(100 * share).toFixed(1).padStart(5)} %`,
      gflops.toFixed(1).padStart(8),
      gbytes_per_s.toFixed(1).padStart(8),
    ];
    lines.push(`${op.padEnd(20)} ${numbers.join(' ')}`);
  }
  return `${lines.join('\n')}\n`;
}
