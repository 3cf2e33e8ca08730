// What `data inspect` prints for a reader: the set, then a block for each column.

import type { ColumnStats, NumberStats, TextStats } from '../prepare/column-stats.ts';
import type { SetReport } from '../prepare/inspect-shards.ts';

/** The page of a set; `sheet` is named where one was drawn. */
export function inspectionPage(report: SetReport, sheet: { file: string; how: string } | null): string {
  const { samples, shards, bytes, raw_bytes, looked_at } = report;
  const packed = bytes === raw_bytes ? '' : `, ${raw_bytes} unpacked`;
  const kinds = Object.entries(report.compression).map(([name, count]) => `${name} (${count})`);
  const lines = [
    row('samples', looked_at === samples ? String(samples) : `${samples}, ${looked_at} of them looked at`),
    row('shards', String(shards)),
    row('bytes', `${bytes}${packed}`),
    row('compression', kinds.join(', ') || 'none'),
    ...report.columns.flatMap(columnLines),
    ...(sheet ? [row('sheet', `${sheet.file}: ${sheet.how}`)] : []),
  ];
  return `${lines.join('\n')}\n`;
}

function columnLines({ name, encoding, bytes, guess, numbers, text, shapes, kinds }: ColumnStats): string[] {
  const size = bytes.min === bytes.max ? `${bytes.min} bytes` : `${bytes.min} to ${bytes.max} bytes`;
  const taken = guess && `  taken for ${guess.kind} ${guess.dtype} [${guess.shape.join(', ')}] (a guess)`;
  return [
    `${name}  ${encoding}, ${size}`,
    ...(taken ? [taken] : []),
    ...(numbers ? [`  ${numberLine(numbers)}`] : []),
    ...(text ? textLines(text) : []),
    ...countLines(shapes),
    ...countLines(kinds),
  ];
}

function numberLine({ type, min, mean, std, max, nan, infinite }: NumberStats): string {
  if (min === null || mean === null || std === null || max === null) return `${type}: no finite number`;
  const odd = nan + infinite === 0 ? 'no NaN or infinity' : `${nan} NaN, ${infinite} infinite`;
  return `${type} from ${short(min)} to ${short(max)}, mean ${short(mean)}, deviation ${short(std)}, ${odd}`;
}

function textLines({ empty, characters, tokens, context, truncated }: TextStats): string[] {
  const share = `${(100 * truncated).toFixed(1)} % are cut at ${context}`;
  return [
    `  ${characters.min} to ${characters.max} characters, mean ${short(characters.mean)}; ${empty} empty`,
    `  ${tokens.min} to ${tokens.max} tokens, mean ${short(tokens.mean)}; ${share}`,
  ];
}

function countLines(counts: Readonly<Record<string, number>> | undefined): string[] {
  return Object.entries(counts ?? {}).map(([key, count]) => `  ${key}: ${count}`);
}

function row(name: string, words: string): string {
  return `${name.padEnd(14)}${words}`;
}

/** Whole numbers as they are: rounded, the last token id would be none. */
function short(value: number): string {
  if (Number.isInteger(value)) return String(value);
  return String(Number(value.toPrecision(4)));
}
