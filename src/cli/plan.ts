// Command: what a run of a recipe will take, before a cent is spent.

import { writeWholeFile } from '../io/atomic.ts';
import { encodeRecord } from '../io/jsonl.ts';
import { bool, int, real, text } from '../recipe/field.ts';
import { type BudgetOptions, budgetOf } from '../train/budget.ts';
import { GPUS, machineOf } from '../train/hardware.ts';
import { canShare } from '../train/work.ts';
import { command } from './command.ts';
import { COMPUTE_FLAGS, openDevice } from './device.ts';
import { flag, type FlagValues, SHARED, usage } from './flags.ts';
import type { Log } from './log.ts';
import { budgetPage, budgetText } from './plan-page.ts';
import { RECIPE_ARGUMENT, RECIPE_FLAGS, recipeFromFlags } from './recipe-flags.ts';
import { stdout } from './stdout.ts';

export const plan = command({
  name: 'plan',
  summary: 'Says what a run will take: FLOPs, memory, hours, dollars and disk, stage by stage',
  flags: {
    set: RECIPE_FLAGS.set,
    steps: RECIPE_FLAGS.steps,
    gpu: flag(text('h100x8', `Machine: ${Object.keys(GPUS).join(', ')}, and how many: h100x8`), {
      hint: 'GPU[xN]',
    }),
    price: flag(real(undefined, { min: 0 }, 'Dollars an hour for the whole machine')),
    mfu: flag(
      real(
        undefined,
        { min: 0.01, max: 100, unit: '%' },
        'Speed as a share of the dense bf16 peak, not modelled',
      ),
    ),
    images: flag(int(37_000_000, { min: 1 }, 'Images of the data set, for disk and preparation')),
    measure: flag(bool(false, 'Measures the speed of one device of this machine instead of modelling it')),
    repeats: flag(int(3, { min: 1, max: 1000 }, 'Measured repeats of --measure, after one to warm up')),
    html: flag(text(undefined, 'Also writes a page with tables and a chart'), { hint: 'FILE' }),
    json: SHARED.json,
    ...COMPUTE_FLAGS,
  },
  args: [RECIPE_ARGUMENT],
  examples: [
    ['microdiff plan micro-budget --gpu h100x8 --price 30', 'the four stages, modelled'],
    ['microdiff plan micro-budget --gpu h100x8 --price 30 --mfu 18.3', 'at the published pace: $1,890'],
    ['microdiff plan emoji --measure', 'at the speed of this machine'],
    ['microdiff plan micro-budget --set text.encoder=clip --html plan.html', 'text tower within the step'],
  ],
  async run({ args, values, given, log }) {
    const flags = { ...values, 'checkpoint-every': undefined, 'dry-run': false };
    const { recipe } = recipeFromFlags(args[0]!, flags, process.env);
    if (values.measure && values.mfu !== undefined) {
      throw usage('--measure', 'given together with --mfu', 'Give one of them');
    }
    // Measured speed is that of this machine alone, unless so many of its devices are asked for.
    const asked = machineOf(values.gpu);
    const measure = values.measure ? await measuring(values, log) : undefined;
    const here = measure && !given.has('gpu');
    const machine = here ? { gpu: { ...asked.gpu, name: measure.backend.name }, count: 1 } : asked;
    const budget = budgetOf({
      recipe,
      machine,
      price: values.price ?? null,
      mfu: values.mfu ?? null,
      images: values.images,
      ...(measure ? { measure } : {}),
    });
    if (!canShare(recipe, machine.count)) {
      const why = `the images of a step cannot be shared out evenly over ${machine.count} GPUs`;
      log.warn(`${why}: planned for the largest share, but train refuses it`);
    }
    for (const { name, levels } of budget.stages) {
      if (levels.every((level) => level.micro_batch === 0)) log.warn(`${name}: not even one image fits`);
    }
    if (values.html !== undefined) {
      writeWholeFile(values.html, budgetPage(args[0]!, budget));
      log.info(`page: ${values.html}`);
    }
    if (values.json) stdout.line(encodeRecord({ ...budget }));
    else stdout.write(budgetText(args[0]!, budget));
    return 0;
  },
});

type Compute = FlagValues<typeof COMPUTE_FLAGS> & { repeats: number };

async function measuring(values: Compute, log: Log): Promise<NonNullable<BudgetOptions['measure']>> {
  const backend = await openDevice(values, log);
  const { openNative } = await import('../../ffi/native.ts');
  const { threads } = await openNative();
  log.info(`measuring steps of every stage on ${backend.name}`);
  return { backend, threads, repeats: values.repeats };
}
