// What a call of sample asks for: its prompts, the settings that flags and an old picture give, and whether
// the pictures can go where they are to go.
import { existsSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Interval } from '../diffusion/heun.ts';
import type { ImageSettings } from '../io/parameters.ts';
import { readTables } from '../sample/columns.ts';
import type { Destination } from '../sample/destination.ts';
import {
  type BadPrompt,
  isInterval,
  type Prompt,
  promptsOfArguments,
  readPrompts,
} from '../sample/prompts.ts';
import {
  type Canvas,
  type Extent,
  parseSize,
  sameSize,
  sizeFault,
  sizeText,
  trainedSize,
} from '../sample/size.ts';
import type { Call } from './command.ts';
import { usage } from './flags.ts';
import type { FLAGS } from './sample-flags.ts';

export type SampleCall = Call<typeof FLAGS>;
type Values = SampleCall['values'];
export type Items = AsyncIterable<Prompt | BadPrompt> | readonly (Prompt | BadPrompt)[];

const LEAVE = 'Leave one out';

/** The prompts, and how many pictures they make where that is known beforehand. */
export function promptsFor(call: SampleCall, old: Partial<ImageSettings>): { items: Items; known?: number } {
  const { values, args } = call;
  const given = [...values.prompt, ...args];
  const texts = given.length === 0 && old.prompt !== undefined ? [old.prompt] : given;
  if (values.column !== undefined) {
    if (values.prompt.length > 0) throw usage('--column', 'takes the place of --prompt', LEAVE);
    return { items: readTables(args.length > 0 ? args : ['-'], values.column) };
  }
  if (texts.length > 0 && !(texts.length === 1 && texts[0] === '-')) {
    const items = promptsOfArguments(texts);
    return { items, known: items.length * values.count };
  }
  if (process.stdin.isTTY && texts.length === 0) {
    throw usage('sample', 'there is no prompt', 'Write microdiff sample "a red apple", or pipe prompts in');
  }
  return { items: readPrompts(Bun.stdin.stream(), values.plain) };
}

/** Refuses what cannot go where it is to go, before anything is made. */
export function checkDestination(values: Values, to: Destination, known: number | undefined): void {
  if (values.output === '') throw usage('-o', 'is empty', 'Name a folder, or . for this one');
  if (values.grid !== undefined && !existsSync(dirname(values.grid))) {
    throw usage(`--grid ${values.grid}`, `there is no folder ${dirname(values.grid)}`, 'Make it first');
  }
  const one = 'A folder (-o out/) or a pattern (-o out/%04d.png) takes any number';
  if (to.kind === 'file' && known !== undefined && known > 1) {
    throw usage(`-o ${values.output}`, `${known} pictures do not fit in one file`, one);
  }
  if (values['skip-existing'] && values.grid !== undefined) {
    throw usage('--skip-existing', 'the sheet (--grid) would lack the pictures that are there', LEAVE);
  }
  if (to.kind !== 'stream') {
    if (values.format !== 'tar') return;
    throw usage('--format tar', 'an archive on stdout holds the pictures, and -o puts them in files', LEAVE);
  }
  if (values['skip-existing']) {
    throw usage('--skip-existing', 'a stream on stdout has no files to look for', 'Name a folder with -o');
  }
  if (process.stdout.isTTY) {
    throw usage('stdout', 'pictures are not for a terminal', 'Redirect it, or give a file with -o');
  }
  if (values.format === 'jsonl' && known !== 1) {
    const why =
      known === undefined ? 'a stream of prompts makes more than one PNG' : `${known} PNGs in one stream`;
    throw usage('-o -', why, 'Say --format tar or msgpack, which keep pictures apart');
  }
}

export function intervalFor({ given, values }: SampleCall, old: Partial<ImageSettings>): Interval | null {
  if (!given.has('guidance-interval')) {
    const before = old.more?.guidance_interval;
    return isInterval(before) ? before : null;
  }
  const interval = values['guidance-interval'];
  if (isInterval(interval)) return interval;
  throw usage(
    '--guidance-interval',
    `expected two noise levels in order, got ${interval.join(',')}`,
    'Write 0.2,5',
  );
}

/** Refuses parts for a model whose own file holds all: they would be left unused without a word. */
export function checkParts({ values }: SampleCall, model: string): void {
  for (const part of ['clip', 'vae'] as const) {
    if (values[part] === undefined) continue;
    throw usage(`--${part}`, `${model} holds its own encoder and needs no parts`, LEAVE);
  }
}

/** The size that flags or an old picture ask for; null is the trained one. */
export function sizeFor({ values }: SampleCall, old: Extent | null, canvas: Canvas | null): Extent | null {
  const size = values.size === undefined ? old : parseSize(values.size);
  if (size === undefined)
    throw usage('--size', `${values.size} is neither N nor WxH`, 'Write 256 or 256x128');
  if (size === null || (canvas && sameSize(size, trainedSize(canvas)))) return null;
  const fault = canvas ? sizeFault(canvas, size) : undefined;
  if (fault === undefined) return size;
  throw usage(`${values.size === undefined ? '--from' : '--size'} ${sizeText(size)}`, fault);
}

export function seedFor({ given, values, log }: SampleCall, old: Partial<ImageSettings>): number {
  const seed = given.has('seed') ? values.seed : (old.seed ?? values.seed);
  if (seed >= 0) return seed;
  const [high, low] = crypto.getRandomValues(new Uint32Array(2));
  const drawn = (high! % 2 ** 21) * 2 ** 32 + low!;
  log.info(`seed ${drawn}`);
  return drawn;
}
