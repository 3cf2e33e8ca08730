// What `prepare` says at its end: lines on stderr with histograms, and the contact sheet of the set.

import { existsSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { writeWholeFile } from '../io/atomic.ts';
import { Failure } from '../io/failure.ts';
import { withCanvas } from '../io/figure/canvas.ts';
import { barsOf } from '../prepare/histogram.ts';
import type { Report } from '../prepare/report.ts';
import { type LatentDecoder, shardPictures } from '../prepare/shard-pictures.ts';
import type { Log } from './log.ts';

/** What is in a set, in numbers. */
export function reportLines(report: Report, folder: string): string[] {
  const { items, written, samples, dropped, width, height, caption_characters: words, histograms } = report;
  const left = Object.entries(dropped).map(([reason, count]) => `${count} ${reason}`);
  const spread = (name: string, s: Report['width']) => (s ? `${name} ${s.least} to ${s.most}` : '');
  const bars = [
    ['width / height', histograms?.aspect_ratio],
    ['shorter edge', histograms?.shorter_edge],
    ['characters', histograms?.caption_characters],
  ] as const;
  const { enlarged } = report;
  return [
    `${written} of ${items} pictures are in ${folder}, ${samples} samples`,
    [spread('width', width), spread('height', height), spread('characters of a caption', words)].join(', '),
    ...bars.flatMap(([name, known]) => (known ? [`  ${name.padEnd(16)}${barsOf(known)}`] : [])),
    ...(enlarged > 0 ? [`${enlarged} were enlarged: --min-size leaves out what is smaller than --size`] : []),
    ...(left.length > 0
      ? [`left out: ${left.join(', ')}; each is named in ${join(folder, 'dropped.jsonl')}`]
      : []),
  ];
}

/** Pictures on the sheet; fewer where each has to be decoded on a processor. */
const SHEET = { most: 24, decoded: 8 };

/**
 * OUT/sheet.png, unless it is there: some pictures of the set with their captions, latents through `decoder`.
 * It says whose pictures they are, and not where the set lies: equal sets have equal sheets.
 */
export async function drawContactSheet(
  folder: string,
  sources: readonly string[],
  { samples }: Report,
  { decoder, slow, log }: { decoder: LatentDecoder | null; slow: boolean; log: Log },
): Promise<void> {
  const path = join(folder, 'sheet.png');
  if (existsSync(path)) return;
  const most = Math.min(samples, slow ? SHEET.decoded : SHEET.most);
  if (slow) log.info(`decoding ${most} pictures for ${path}`);
  try {
    const { drawSheet } = await withCanvas(() => import('../io/figure/sheet.ts'));
    const found = await shardPictures(folder, most, decoder);
    if (!found) return;
    const { column, how, pictures } = found;
    const names = sources.map((source) => basename(resolve(source)));
    const title = names.length > 3 ? `${names[0]} and ${names.length - 1} more` : names.join(', ');
    const subtitle = `${pictures.length} of ${samples} samples; ${column}: ${how}`;
    writeWholeFile(path, drawSheet(pictures, { title, subtitle }));
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    log.warn(`no contact sheet: ${error.message}`);
  }
}
