// Command: the paper's central comparison on the user's own data, at equal training FLOPs.

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { makeFolder, writeWholeFile } from '../io/atomic.ts';
import { withCanvas } from '../io/figure/canvas.ts';
import { EXIT, Failure } from '../io/failure.ts';
import { encodeRecord } from '../io/jsonl.ts';
import { int, real, text } from '../recipe/field.ts';
import type { Recipe } from '../recipe/schema.ts';
import { estimate } from '../sample/loss.ts';
import { BASE, type Cell, CELL_NAMES, cellsOf } from '../train/ablation.ts';
import { isTrained, measured, openHeld, type Point } from './ablate-measure.ts';
import { type Call, command } from './command.ts';
import { COMPUTE_FLAGS, openDevice } from './device.ts';
import { flag, SHARED } from './flags.ts';
import { watchSignals } from './interrupt.ts';
import { DATA_FLAG, RECIPE_ARGUMENT, RECIPE_FLAGS, recipeFromFlags } from './recipe-flags.ts';
import { stdout } from './stdout.ts';
import { version } from './version.ts';

const FLAGS = {
  set: RECIPE_FLAGS.set,
  ...DATA_FLAG,
  out: flag(text('ablation', 'Folder of the runs, the table and the plot'), { alias: 'o', hint: 'DIR' }),
  steps: flag(int(1000, { min: 1 }, 'Steps with deferred masking at 75 %; the others get as many FLOPs')),
  finetune: flag(
    real(0.2, { min: 0, max: 0.9 }, 'Share of the FLOPs that goes without a mask at the end (0: none)'),
  ),
  cells: flag(text(CELL_NAMES.join(','), 'Which runs to make'), { hint: 'NAME,...' }),
  points: flag(int(5, { min: 1, max: 1000 }, 'Times that the loss is measured on the way')),
  held: flag(text(undefined, 'Held-out pictures or shards (default: held-out emoji or shapes)'), {
    hint: 'DIR',
  }),
  count: flag(int(512, { min: 2 }, 'Held-out images, fewer where there are not as many')),
  json: SHARED.json,
  ...COMPUTE_FLAGS,
};

interface Row {
  readonly cell: Cell;
  readonly points: readonly Point[];
}

export const ablate = command({
  name: 'ablate',
  summary: 'Compares masking, experts and sizes at equal training FLOPs on your data: a table and a plot',
  flags: FLAGS,
  args: [RECIPE_ARGUMENT],
  examples: [
    [
      'microdiff ablate emoji -o ablation --steps 1500',
      'nine runs; the same command again goes on with them',
    ],
    ['microdiff ablate emoji --cells deferred-75,naive-75,smaller', 'three of them'],
    ['microdiff ablate my.toml --data latents/ --held held-out/', 'your data'],
  ],
  run: (call) => run(call),
});

async function run({ args, values, log, progress }: Call<typeof FLAGS>): Promise<number> {
  const flags = { ...values, steps: undefined, 'checkpoint-every': undefined, 'dry-run': false };
  const { recipe } = recipeFromFlags(args[0]!, flags, process.env);
  const names = values.cells.split(',').map((name) => name.trim());
  const cells = cellsOf({ ...values, recipe }, [...new Set(names)]);
  const { keepMicroBatches } = await import('../train/fit.ts');
  const { recipeOfRun, refuseOtherRecipe } = await import('../train/begun.ts');
  const { trainRun } = await import('../train/run.ts');
  const there = CELL_NAMES.filter((name) => existsSync(join(values.out, name, 'recipe.toml')));
  const begun = cellsOf({ ...values, recipe }, there);
  for (const { name, recipe } of begun) {
    const folder = join(values.out, name);
    const old = recipeOfRun(folder)!;
    refuseOtherRecipe(folder, old, recipe.train.fit_micro_batch ? keepMicroBatches(recipe, old) : recipe);
    refuseOtherLength(folder, old, recipe);
  }
  if (recipe.stage.some(({ input_size }) => input_size !== recipe.stage[0]!.input_size)) {
    log.warn('the stages are of several sizes: the comparison is made at that of the first');
  }
  using held = await openHeld(cells[0]!, values, (words) => log.warn(words));
  makeFolder(values.out);
  const backend = await openDevice(values, log);
  const interrupt = watchSignals(log);
  const rows = new Map<string, Row>();
  const ordered = () => CELL_NAMES.flatMap((name) => rows.get(name) ?? []);
  const measure = async (cell: Cell) => {
    const points = await measured({ backend, held, interrupt, progress }, cell, join(values.out, cell.name));
    if (points) rows.set(cell.name, { cell, points });
    return points !== null;
  };
  const stopped = () => interrupt.exitCode ?? 1;
  for (const cell of begun) {
    if (isTrained(cell, join(values.out, cell.name)) && !(await measure(cell))) return stopped();
  }
  for (const cell of cells) {
    const folder = join(values.out, cell.name);
    const steps = cell.recipe.stage.map((stage) => stage.steps).join(' + ');
    log.info(`${cell.name}: ${cell.title}, ${steps} steps`);
    const { recipe } = cell;
    const { finished } = await trainRun({ recipe, folder, backend, version, interrupt, log, progress });
    progress.finish(); // the next run's time left is its own
    if (!finished || !(await measure(cell))) return stopped();
    await publish(values.out, ordered(), values.points);
  }
  const all = ordered();
  for (const { name } of begun) {
    if (!rows.has(name)) log.info(`${name} is not finished, and not in the table`);
  }
  if (values.json) for (const row of all) stdout.line(encodeRecord(recordOf(row)));
  else stdout.write(tableOf(all));
  return 0;
}

/** A run of another length would be of another cost, and its learning rate has gone another way. */
function refuseOtherLength(folder: string, begun: Recipe, { stage }: Recipe): void {
  const [old, now] = [begun.stage, stage].map((rows) => rows.map(({ steps }) => steps).join(' + '));
  if (old === now) return;
  throw new Failure({
    what: folder,
    why: `is a run of ${old} steps, not of ${now}, and a comparison is at equal cost`,
    fix: 'Give the --steps and --finetune that it was begun with, or another folder with -o',
    code: EXIT.usage,
  });
}

async function publish(folder: string, rows: readonly Row[], points: number): Promise<void> {
  writeWholeFile(join(folder, 'results.json'), `${JSON.stringify(rows.map(recordOf), null, 1)}\n`);
  writeWholeFile(join(folder, 'table.md'), markdownOf(rows));
  if (points < 2) return;
  const { drawChart } = await withCanvas(() => import('../io/figure/chart.ts'));
  // First losses are many times the last ones, which the chart is for.
  const top = 1.4 * Math.max(...rows.map(({ points }) => points.at(-1)?.loss ?? 0));
  // The chart's axis is the work done, in place of steps.
  const { unit, of } = workUnit(rows);
  const runs = rows.map(({ cell, points }) => ({
    label: cell.name,
    records: points.filter(({ loss }) => loss < top).map(({ eflop, loss }) => ({ step: of(eflop), loss })),
  }));
  const panels = [
    {
      key: 'loss',
      title: `Loss on held-out images below ${top.toFixed(2)} against ${unit} of training`,
      noisy: false,
      mayLog: true,
    },
  ];
  const title = 'Quality against cost';
  writeWholeFile(join(folder, 'ablation.png'), drawChart(runs, { title, aside: 'equal FLOPs', panels }));
}

function recordOf({ cell, points }: Row): Record<string, unknown> {
  const { name, title, parameters, recipe, flops } = cell;
  const steps = recipe.stage.map((stage) => stage.steps);
  const told = points.map(({ each: _, ...point }) => point);
  return { name, title, parameters, steps, gflop_per_image: flops[0] / 1e9, points: told };
}

/** The unit in which the largest amount of work is a number from 1 to 1000. */
function workUnit(rows: readonly Row[]): { unit: string; of: (eflop: number) => number } {
  const most = Math.max(1e-12, ...rows.flatMap(({ points }) => points.map(({ eflop }) => eflop)));
  const power = Math.min(4, Math.max(0, Math.ceil(-Math.log10(most) / 3)));
  return {
    unit: ['EFLOP', 'PFLOP', 'TFLOP', 'GFLOP', 'MFLOP'][power]!,
    of: (eflop) => eflop * 1000 ** power,
  };
}

function headsOf(rows: readonly Row[]): string[] {
  const { unit } = workUnit(rows);
  const against = `against ${baseOf(rows).cell.name}, 95 %`;
  return ['run', 'parameters', 'GFLOP an image', 'steps', unit, 'loss', '95 %', against];
}

const baseOf = (rows: readonly Row[]) => rows.find(({ cell }) => cell.name === BASE) ?? rows[0]!;

/** By how much the loss of a cell is off that of another, image by image. */
function difference(row: Row, base: Row): string {
  const [ours, theirs] = [row.points.at(-1)?.each, base.points.at(-1)?.each];
  if (row === base || !ours || ours.length !== theirs?.length) return '-';
  const { loss, ci95 } = estimate(Float64Array.from(ours, (value, i) => value - theirs[i]!));
  return `${loss < 0 ? '-' : '+'}${Math.abs(loss).toFixed(4)} (+-${(ci95[1] - loss).toFixed(4)})`;
}

function cellsOfRow(row: Row, base: Row, of: (eflop: number) => number): string[] {
  const { cell, points } = row;
  const last = points.at(-1);
  return [
    cell.title,
    cell.parameters.toLocaleString('en'),
    (cell.flops[0] / 1e9).toFixed(3),
    cell.recipe.stage.map((stage) => stage.steps).join(' + '),
    last ? String(Number(of(last.eflop).toPrecision(3))) : '-',
    last ? last.loss.toFixed(4) : '-',
    last ? `${last.ci95[0].toFixed(4)} to ${last.ci95[1].toFixed(4)}` : '-',
    difference(row, base),
  ];
}

const best = (rows: readonly Row[]) =>
  [...rows].sort((a, b) => (a.points.at(-1)?.loss ?? Infinity) - (b.points.at(-1)?.loss ?? Infinity));

/** Heads, then the best first. */
function cellsOfTable(rows: readonly Row[]): string[][] {
  const { of } = workUnit(rows);
  return [headsOf(rows), ...best(rows).map((row) => cellsOfRow(row, baseOf(rows), of))];
}

function tableOf(rows: readonly Row[]): string {
  const cells = cellsOfTable(rows);
  const widths = cells[0]!.map((_, i) => Math.max(...cells.map((row) => row[i]!.length)));
  const line = (row: readonly string[]) =>
    row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join('  ');
  return `${cells.map(line).join('\n')}\n`;
}

function markdownOf(rows: readonly Row[]): string {
  const line = (row: readonly string[]) => `| ${row.join(' | ')} |\n`;
  const [heads = [], ...others] = cellsOfTable(rows);
  return [heads, heads.map(() => '---'), ...others].map(line).join('');
}
