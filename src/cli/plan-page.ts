// What `plan` prints: tables for a terminal, and the same as one HTML page with a chart.

import type { Budget, Level, StageBudget } from '../train/budget.ts';

interface Table {
  readonly title: string;
  readonly heads: readonly string[];
  readonly rows: readonly (readonly string[])[];
}

/** The budget as tables of plain text. */
export function budgetText(name: string, budget: Budget): string {
  const tables = tablesOf(budget).map(({ title, heads, rows }) => {
    const widths = heads.map((head, i) => Math.max(head.length, ...rows.map((cells) => cells[i]!.length)));
    const line = (cells: readonly string[]) =>
      cells.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join('  ');
    return [title, line(heads), ...rows.map(line)].map((text) => text.trimEnd()).join('\n');
  });
  return `${[summaryOf(name, budget).join('\n'), ...tables].join('\n\n')}\n`;
}

const grouped = (n: number) => Math.round(n).toLocaleString('en');

/** Machine, where the speed comes from, parameters. */
function summaryOf(name: string, budget: Budget): string[] {
  const { gpu, gpus, price, speed, parameters, total } = budget;
  const dollars = price === null ? 'no price given (--price)' : `$${price} an hour`;
  const source = {
    modelled: 'speed modelled by a roofline, not measured',
    measured: 'speed measured on one device of this machine, several taken to scale without loss',
    given: `speed given: ${percent(total.mfu)} of the dense bf16 peak`,
  };
  return [
    `${name} on ${gpus} x ${gpu}, ${dollars}; ${source[speed]}`,
    `${grouped(parameters.total)} parameters, a token meets ${grouped(parameters.active)}`,
  ];
}

function tablesOf(budget: Budget): Table[] {
  const { stages, total, data } = budget;
  const row = (label: string, s: Omit<StageBudget, 'name' | 'recompute' | 'levels' | 'gflop_per_image'>) => [
    label,
    s.steps.toLocaleString('en'),
    short(s.images),
    s.eflop < 0.1 ? s.eflop.toExponential(1) : s.eflop.toFixed(1),
    short(s.images_per_s),
    percent(s.mfu),
    s.hours < 1 ? `${(60 * s.hours).toFixed(1)} min` : s.hours.toFixed(1),
    s.dollars === null ? '-' : `$${s.dollars.toFixed(s.dollars < 10 ? 2 : 0)}`,
  ];
  const heads = ['stage', 'steps', 'images', 'EFLOP', 'images/s', 'MFU', 'hours', 'cost'];
  const course = {
    title: 'course',
    heads,
    rows: [...stages.map((s) => row(s.name, s)), row('total', total)],
  };
  const memory = {
    title: 'memory of one GPU: largest micro-batch, its bytes, and bytes of an image, by train.recompute',
    heads: ['stage', ...stages[0]!.levels.map(({ recompute }) => recompute), 'taken'],
    rows: stages.map((s) => [s.name, ...s.levels.map(levelText), `${s.recompute}, ${s.micro_batch}`]),
  };
  if (!data) return [course, memory];
  const cost = data.prepare_dollars === null ? '' : `, $${data.prepare_dollars.toFixed(0)}`;
  const disk = {
    title: `data of ${short(data.images)} images`,
    heads: ['what', 'amount'],
    rows: [
      ['on disk', `${bytes(data.bytes)} (${bytes(data.bytes_per_image)} an image)`],
      ['with 8-bit states (prepare --captions-as states8)', bytes(data.q8_bytes)],
      [
        'with token ids (text.encoder = clip)',
        `${bytes(data.token_bytes)}, ${data.token_eflop.toFixed(1)} EFLOP more to train`,
      ],
      ['to prepare', `${data.prepare_eflop.toFixed(1)} EFLOP, ${data.prepare_hours.toFixed(1)} h${cost}`],
    ],
  };
  return [course, memory, disk];
}

function levelText({ micro_batch, bytes_fixed, bytes_per_image }: Level): string {
  if (micro_batch === 0) return `does not fit (${bytes(bytes_per_image)})`;
  return `${micro_batch}: ${bytes(bytes_fixed + micro_batch * bytes_per_image)} (${bytes(bytes_per_image)})`;
}

const percent = (share: number | null) => (share === null ? '-' : `${(100 * share).toFixed(1)} %`);

function short(value: number): string {
  if (value < 10 && !Number.isInteger(value)) return value.toPrecision(2);
  const units = ['', 'k', 'M', 'G', 'T'];
  const power = Math.min(units.length - 1, Math.max(0, Math.floor(Math.log10(Math.max(1, value)) / 3)));
  const scaled = value / 1000 ** power;
  return `${scaled.toFixed(scaled < 100 && power > 0 ? 1 : 0)}${units[power]}`;
}

function bytes(value: number): string {
  const units = ['B', 'KB', 'MB', 'GB', 'TB', 'PB'];
  const power = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(1, value)) / 3));
  const scaled = value / 1000 ** power;
  const digits = power === 0 || scaled >= 100 ? 0 : scaled < 10 ? 2 : 1;
  return `${scaled.toFixed(digits)} ${units[power]}`;
}

const markup = (text: string) =>
  text.replace(/[&<>"]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[c]!);

/** One page by itself: no script, nothing from elsewhere. */
export function budgetPage(name: string, budget: Budget): string {
  const tables = tablesOf(budget).map(({ title, heads, rows }) => {
    const cells = (tag: string, row: readonly string[]) =>
      `<tr>${row.map((cell) => `<${tag}>${markup(cell)}</${tag}>`).join('')}</tr>`;
    const body = rows.map((row) => cells('td', row)).join('\n');
    return `<h2>${markup(title)}</h2>\n<table>\n${cells('th', heads)}\n${body}\n</table>`;
  });
  const [head, ...others] = summaryOf(name, budget).map((line) => `<p>${markup(line)}</p>`);
  return `<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>${markup(name)}: what the run will take</title>
<style>
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h2 { font-size: 1rem; margin: 2rem 0 .5rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
svg { width: 100%; height: auto; }
</style>
<h1>${markup(name)}</h1>
${head}
${others.join('\n')}
${chart(budget)}
${tables.join('\n')}
</html>
`;
}

const COLOURS = ['#2563eb', '#ea580c', '#16a34a', '#9333ea', '#0891b2', '#ca8a04'];

/** The stages as parts of a bar: hours above, FLOPs below. */
function chart({ stages }: Budget): string {
  const hours = bar(stages, 22, 'Hours', (stage) => stage.hours, 'h');
  const flops = bar(stages, 102, 'Work', (stage) => stage.eflop, 'EFLOP');
  const legend = stages.map(({ name }, i) => {
    const x = (i * 900) / stages.length;
    const square = `<rect x="${x}" y="168" width="12" height="12" fill="${colour(i)}"/>`;
    return `${square}<text x="${x + 18}" y="179" fill="currentColor">${markup(name)}</text>`;
  });
  const label = 'role="img" aria-label="hours and work by stage"';
  return `<svg viewBox="0 0 900 190" font-size="14" ${label}>${hours}${flops}${legend.join('')}</svg>`;
}

const colour = (i: number) => COLOURS[i % COLOURS.length];

function bar(
  stages: readonly StageBudget[],
  y: number,
  label: string,
  of: (stage: StageBudget) => number,
  unit: string,
): string {
  const all = stages.reduce((sum, stage) => sum + of(stage), 0);
  let x = 0;
  const parts = stages.map((stage, i) => {
    const width = (900 * of(stage)) / all;
    const amount = `<text x="${x + 8}" y="${y + 27}" fill="#fff">${of(stage).toFixed(1)} ${unit}</text>`;
    const place = `x="${x}" y="${y}" width="${width}" height="42" fill="${colour(i)}"`;
    x += width;
    return `<rect ${place}><title>${markup(stage.name)}</title></rect>${width > 70 ? amount : ''}`;
  });
  const title = `${label}, ${all.toFixed(1)} ${unit} in all`;
  return `<text x="0" y="${y - 8}" fill="currentColor">${title}</text>${parts.join('')}`;
}
