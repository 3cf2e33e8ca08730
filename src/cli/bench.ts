// Command: speed of a training step, of a forward pass, of sampling or of the data stream on this machine.

import { encodeRecord } from '../io/jsonl.ts';
import { STREAM } from '../data/stream/sets.ts';
import { bool, int, real } from '../recipe/field.ts';
import type { BenchResult } from '../train/bench.ts';
import { runDataBench } from './bench-data.ts';
import { command } from './command.ts';
import { COMPUTE_FLAGS, openDevice } from './device.ts';
import { flag, SHARED, usage } from './flags.ts';
import { stdout } from './stdout.ts';
import { findWorkload, type FoundWorkload, WORKLOAD_FLAGS } from './workload.ts';

const USUAL = {
  train: { mask: 0.75, batch: 8 },
  ops: { mask: 0.75, batch: 8 },
  forward: { mask: 0, batch: 4 },
  sample: { mask: 0, batch: 1 },
};
type What = keyof typeof USUAL;
const WHAT = [...Object.keys(USUAL), 'data'];
const USUAL_DATA_BATCH = 256;
/** Seconds of the reference for what it was timed with: MicroDiT_Tiny_2 and the numbers above. */
const REFERENCE_SECONDS = { train: 2.56, forward: 0.86 };

export const bench = command({
  name: 'bench',
  summary: 'Measures a training step, its ops, a forward pass, sampling or the data stream on this machine',
  flags: {
    ...WORKLOAD_FLAGS,
    repeats: flag(int(5, { min: 1, max: 1000 }, 'Measured repeats after one to warm up')),
    ops: flag(bool(false, 'Also list the time of every kind of op')),
    steps: flag(int(30, { min: 1, max: 1000 }, 'Steps of sampling')),
    'cfg-scale': flag(real(5, { min: 1 }, 'Guidance of sampling')),
    plain: flag(bool(false, 'Also sample without the exact savings, in turn, and compare')),
    window: flag(int(STREAM.window, { min: 1, unit: 'shards' }, 'data: shards that are shuffled together')),
    workers: flag(int(undefined, { min: 1, max: 64 }, 'data: reading threads; up to four when left out')),
    json: SHARED.json,
    ...COMPUTE_FLAGS,
  },
  args: [
    { name: 'what', meaning: 'What to measure', required: true, options: WHAT },
    { name: 'dir', meaning: 'data: a folder of shards; 2 GB of them are made when left out' },
  ],
  examples: [
    ['microdiff bench train --preset MicroDiT_Tiny_2 --latent 32 --mask 0.75 --batch 8', 'a training step'],
    ['microdiff bench forward --batch 4 --json', 'a forward pass without mask, for programs'],
    ['microdiff bench ops --recipe emoji', 'the first stage of a recipe, and where its time goes'],
    ['microdiff bench sample --preset MicroDiT_XL_2 --batch 16 --device cuda', 'pictures in 30 steps'],
    ['microdiff bench sample --steps 4 --plain', 'what reading captions once brings'],
    ['microdiff bench data latents/', 'batches of shards, shuffled, beside a plain read of them'],
  ],
  async run({ args, values, log }) {
    if (args[0] === 'data') {
      const { batch = USUAL_DATA_BATCH, workers = STREAM.workers, window, repeats } = values;
      await runDataBench(args[1], { batch, workers, window, repeats }, values.json, log);
      return 0;
    }
    if (args[1] !== undefined) throw usage(args[1], 'bench takes a folder for data alone', 'Leave it out');
    const what = Object.keys(USUAL).find((key): key is What => key === args[0]) ?? 'train';
    const work = findWorkload(values, USUAL[what], process.env);
    const backend = await openDevice(values, log);
    const { openNative } = await import('../../ffi/native.ts');
    const { threads } = await openNative();
    const { benchTrain, benchForward } = await import('../train/bench.ts');
    const { benchSample } = await import('../train/bench-sample.ts');
    const referenceSeconds =
      (what === 'train' || what === 'forward') && isReference(work, what) ? REFERENCE_SECONDS[what] : null;
    const { repeats, steps, plain, 'cfg-scale': cfgScale } = values;
    if (plain && (what !== 'sample' || cfgScale === 1)) {
      throw usage('--plain', 'compares sampling with guidance', 'Write bench sample --plain');
    }
    const timesOps = values.ops || what === 'ops';
    const options = { ...work, backend, threads, repeats, ops: timesOps, referenceSeconds };
    const alone = (result: BenchResult) => ({ ...result, plain: null });
    const runs = {
      train: () => alone(benchTrain(options)),
      ops: () => alone(benchTrain(options)),
      forward: () => alone(benchForward(options)),
      sample: () => benchSample({ ...options, steps, cfgScale, plain }),
    };
    log.info(`${what} ${work.name}: ${repeats} repeats after warming up`);
    const result = runs[what]();
    const { ops, plain: compared, ...numbers } = result;
    const bf16 = values['cpu-bf16'];
    if (values.json) {
      stdout.line(encodeRecord({ ...numbers, cpu_bf16: bf16, ...compared, ...(timesOps ? { ops } : {}) }));
      return 0;
    }
    stdout.write(page(numbers, what, ops, bf16 ? ', bf16 products' : ''));
    if (compared) {
      const { vs_plain, vs_plain_processor, vs_plain_flops, plain_difference } = compared;
      const times = (ratio: number) => `${ratio.toFixed(2)} times`;
      const fast = `${times(vs_plain)} as fast as without (processor time ${times(vs_plain_processor)})`;
      stdout.line(`savings         ${fast}, ${times(vs_plain_flops)} fewer operations`);
      stdout.line(
        `                pictures differ by ${plain_difference.toExponential(1)} of the largest value`,
      );
    }
    return 0;
  },
});

/** True for exactly the configuration that the reference was timed with. */
function isReference(work: FoundWorkload, what: keyof typeof REFERENCE_SECONDS): boolean {
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

const UNIT: Readonly<Record<What, string>> = {
  train: 'step',
  ops: 'step',
  forward: 'pass',
  sample: 'evaluation',
};

function page(
  result: Omit<BenchResult, 'ops'>,
  what: What,
  ops: BenchResult['ops'],
  products: string,
): string {
  const { ms_per_step: ms, ms_per_step_best: best, vs_reference: ratio, mfu, sgemm_gflops } = result;
  const against =
    sgemm_gflops === null
      ? "the device's dense products"
      : `what 1024^3 products reach here (${sgemm_gflops.toFixed(0)} GFLOP/s)`;
  const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(2)} GiB`;
  const rows = [
    ['images/s', result.images_per_s.toFixed(2)],
    [`ms a ${UNIT[what]}`, `${ms.toFixed(ms < 10 ? 2 : 0)} (best ${best.toFixed(ms < 10 ? 2 : 0)})`],
    ['TFLOP/s', `${result.tflops.toFixed(3)} (${result.gflop_per_image.toFixed(1)} GFLOP an image)`],
    ...(mfu === null ? [] : [['MFU', `${(100 * mfu).toFixed(0)} % of ${against}`]]),
    [
      'memory',
      gib(result.bytes_planned) +
        (result.bytes_peak === null ? '' : ` planned, at most ${gib(result.bytes_peak)} taken`),
    ],
    [
      'device',
      result.bytes_peak === null ? `${result.device}, ${result.threads} threads${products}` : result.device,
    ],
    ...(ratio === null ? [] : [['reference', `${ratio.toFixed(2)} times its speed, scaled by the products`]]),
  ];
  const lines = rows.map(([name, value]) => `${name!.padEnd(16)}${value}`);
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
