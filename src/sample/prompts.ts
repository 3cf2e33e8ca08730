// Prompts of a stream: a line is a prompt, or a JSON object with a prompt and settings of its own. A line
// that cannot be used becomes an error in its place, and the rest goes on.

import type { Interval } from '../diffusion/heun.ts';
import { SAMPLERS, type SamplerName } from '../diffusion/solvers.ts';
import { type Line, readLines } from '../io/lines.ts';
import { LARGEST } from '../recipe/field.ts';
import { didYouMean } from '../recipe/nearest.ts';
import { type Extent, parseSize } from './size.ts';

/** A picture to be made; what a line does not say is left out. */
export interface Prompt {
  /** Place in the stream, from 0. */
  readonly index: number;
  readonly prompt: string;
  readonly negative_prompt?: string;
  readonly seed?: number;
  readonly steps?: number;
  readonly cfg_scale?: number;
  readonly sampler?: SamplerName;
  readonly guidance_interval?: Interval;
  /** In pixels. */
  readonly size?: Extent;
  /** File name of the picture. */
  readonly out?: string;
}

/** A line that cannot be used, and why. */
export interface BadPrompt {
  readonly index: number;
  readonly error: string;
}

type Check = (value: unknown) => string | undefined;

const isText: Check = (value) => (typeof value === 'string' ? undefined : 'must be a text');
const isWhole =
  (min: number): Check =>
  (value) =>
    Number.isSafeInteger(value) && (value as number) >= min
      ? undefined
      : `must be a whole number from ${min}${min === 0 ? ` to ${LARGEST}` : ''}`;

/** The fields of a JSON line and what is wrong with a value of each; nothing where it is right. */
export const PROMPT_FIELDS: Readonly<Record<string, Check>> = {
  prompt: (value) => isText(value) ?? ((value as string).trim() === '' ? 'is empty' : undefined),
  negative_prompt: isText,
  seed: isWhole(0),
  steps: isWhole(1),
  cfg_scale: (value) => (Number.isFinite(value) ? undefined : 'must be a number'),
  sampler: (value) =>
    SAMPLERS.includes(value as SamplerName) ? undefined : `must be one of ${SAMPLERS.join(', ')}`,
  guidance_interval: (value) => (isInterval(value) ? undefined : 'must be [low, high], noise levels from 0'),
  size: (value) => (sizeOf(value) ? undefined : 'must be N or "WxH" in pixels'),
  out: (value) => isText(value) ?? (isInside(value as string) ? undefined : 'must be a .png name inside -o'),
};

/** A size as a line writes it: 256 or "256x128". */
function sizeOf(value: unknown): Extent | undefined {
  return typeof value === 'number' || typeof value === 'string' ? parseSize(String(value)) : undefined;
}

/** Two noise levels in order. */
export function isInterval(value: unknown): value is Interval {
  if (!Array.isArray(value) || value.length !== 2 || !value.every(Number.isFinite)) return false;
  return 0 <= value[0] && value[0] <= value[1];
}

/** A relative path to a PNG that does not lead out of the folder it is relative to. */
function isInside(path: string): boolean {
  return /^[^/].*\.png$/i.test(path) && !path.includes('\0') && !path.split('/').includes('..');
}

/** Whether a parsed line is an error. */
export function isBad(item: Prompt | BadPrompt): item is BadPrompt {
  return 'error' in item;
}

/**
 * Parses one line of a stream. A line that begins with `{` is JSON, unless `plain`; a blank line is an
 * error, and so is a line that could not be read.
 */
export function parsePrompt(line: Line, plain = false): Prompt | BadPrompt {
  const { index } = line;
  if ('error' in line) return { index, error: line.error };
  const text = line.text.trim();
  if (text === '') return { index, error: 'the line is blank' };
  if (plain || !text.startsWith('{')) return { index, prompt: text };
  let record: unknown;
  try {
    record = JSON.parse(text);
  } catch (error) {
    const why = error instanceof Error ? error.message.replace(/^JSON Parse error: /, '') : String(error);
    return { index, error: `broken JSON: ${why}` };
  }
  return { index, ...fieldsOf(record as Readonly<Record<string, unknown>>) };
}

type Fields = Omit<Prompt, 'index'> | Omit<BadPrompt, 'index'>;

function fieldsOf(record: Readonly<Record<string, unknown>>): Fields {
  for (const [name, value] of Object.entries(record)) {
    const check = Object.hasOwn(PROMPT_FIELDS, name) ? PROMPT_FIELDS[name] : undefined;
    if (!check) return { error: unknownField(name) };
    const why = check(value);
    if (why !== undefined) return { error: `${name} ${why}, got ${JSON.stringify(value)}` };
  }
  if (!Object.hasOwn(record, 'prompt')) return { error: 'prompt is missing' };
  const { size, ...fields } = record;
  const prompt = fields as unknown as Omit<Prompt, 'index'>; // every field has passed its check
  const extent = sizeOf(size);
  return extent ? { ...prompt, size: extent } : prompt;
}

function unknownField(name: string): string {
  const hint = didYouMean(name, Object.keys(PROMPT_FIELDS));
  return `unknown field ${JSON.stringify(name)}${hint ? `. ${hint}` : ''}`;
}

/** The prompts of the command line's arguments, each as it is. */
export function promptsOfArguments(args: readonly string[]): (Prompt | BadPrompt)[] {
  return args.map((text, index) => parsePrompt({ index, text }, true));
}

/** The prompts of a byte stream, one a line. */
export async function* readPrompts(
  source: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  plain = false,
): AsyncGenerator<Prompt | BadPrompt> {
  for await (const line of readLines(source)) yield parsePrompt(line, plain);
}
