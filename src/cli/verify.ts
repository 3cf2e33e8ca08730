// Command: conformance of this build, on this machine, with a folder of golden data.

import { openLapack } from '../../ffi/lapack.ts';
import type { GroupResult } from '../eval/conformance.ts';
import { verify as verifyFolder } from '../eval/verify.ts';
import { EXIT, Failure } from '../io/failure.ts';
import { encodeRecord } from '../io/jsonl.ts';
import { initialiseWeights } from '../train/initialise.ts';
import { rateMultiplier } from '../train/schedule.ts';
import { finishMicroStep, traceLoss, updatePlan } from '../train/step.ts';
import { command } from './command.ts';
import { DEVICE_FLAGS, openDevice } from './device.ts';
import { SHARED } from './flags.ts';
import { stdout } from './stdout.ts';

/** The code that this build trains with. */
export const TRAINING = { traceLoss, finishMicroStep, updatePlan, initialiseWeights, rateMultiplier };

export const verify = command({
  name: 'verify',
  summary: 'Compares what this build computes on this machine with golden numbers',
  flags: { ...DEVICE_FLAGS, json: SHARED.json },
  args: [{ name: 'dir', meaning: 'Folder of one part of the golden data', required: true }],
  examples: [
    ['microdiff verify golden/microdit', 'a table: group, largest error, bound, pass or fail, worst tensor'],
    ['microdiff verify golden/microdit --json', 'the same as one JSON object'],
  ],
  async run({ args, values, log }) {
    const dir = args[0]!;
    const backend = await openDevice(values, log);
    // Where the device rounds to bfloat16, the CPU says which tokens float32 gives the experts.
    const { cpuBackend } = await import('../backend/cpu.ts');
    const recorder = backend.elemBytes.act === 2 ? await cpuBackend(values.threads) : undefined;
    const options = { backend, recorder, training: TRAINING, lapack: await openLapack() };
    const groups: GroupResult[] = [];
    if (!values.json) stdout.line(row(['group', 'largest error', 'bound', 'result', 'worst']));
    for await (const group of verifyFolder(dir, options)) {
      groups.push(group);
      if (!values.json) stdout.line(tableLine(group));
    }
    const count = (status: GroupResult['status']) => groups.filter((g) => g.status === status).length;
    const [passed, failed, skipped] = [count('pass'), count('fail'), count('skipped')];
    if (values.json) {
      stdout.line(encodeRecord({ device: backend.name, groups, passed: failed === 0 && passed > 0 }));
    }
    if (failed > 0) {
      log.error(`${dir}: ${failed} of ${passed + failed} groups failed`);
      return EXIT.failed;
    }
    if (passed > 0) {
      log.info(`${passed} groups passed${skipped > 0 ? `, ${skipped} skipped` : ''}`);
      return 0;
    }
    throw new Failure({
      what: dir,
      why: 'nothing could be checked',
      fix: 'See the lines above for the reasons',
    });
  },
});

const WIDTHS = [38, 15, 9, 9];

function row(cells: readonly string[]): string {
  return cells
    .map((cell, i) => cell.padEnd(WIDTHS[i] ?? 0))
    .join('')
    .trimEnd();
}

function tableLine({ group, error, bound, status, note }: GroupResult): string {
  return row([`${group} `, size(error), size(bound), status, note]);
}

function size(value: number | null): string {
  if (value === null) return '-';
  return value === 0 || !Number.isFinite(value) ? String(value) : value.toExponential(1);
}
