// How an image was made, as text in its PNG: the `parameters` text that A1111, Civitai, stable-
// diffusion.cpp and many viewers read, and beside it a `microdiff` JSON text that says everything exactly,
// for `sample --from image.png`.

import { Failure } from './failure.ts';
import { decodeRecord, encodeRecord, type JsonRecord } from './jsonl.ts';
import type { PngText } from './png.ts';

/** What it takes to make an image again. Keys of `more` stand beside the others in the JSON. */
export interface ImageSettings {
  readonly prompt: string;
  readonly negativePrompt?: string;
  /** 0 .. 2^53 - 1 */
  readonly seed: number;
  readonly steps: number;
  readonly cfgScale: number;
  readonly sampler: string;
  readonly width: number;
  readonly height: number;
  readonly model: string;
  readonly more?: JsonRecord;
}

/** Both texts for a PNG. `version` is that of the program, as in "microdiff 0.1.0". */
export function settingsTexts(settings: ImageSettings, version: string): PngText[] {
  return [
    { keyword: 'parameters', text: formatParameters(settings, version) },
    { keyword: 'microdiff', text: encodeRecord({ ...toRecord(settings), version }) },
  ];
}

/**
 * The settings in a PNG's texts, from `microdiff` if it is there, else as far as `parameters` tells them;
 * undefined if it has neither. `path` stands in the Failure for texts that are there and make no sense.
 */
export function settingsOf(path: string, texts: readonly PngText[]): Partial<ImageSettings> | undefined {
  const exact = texts.find(({ keyword }) => keyword === 'microdiff');
  if (exact) {
    const record = decodeRecord(exact.text);
    if (!record) throw senseless(path, 'its microdiff text is not JSON');
    return fromRecord(path, record);
  }
  const parameters = texts.find(({ keyword }) => keyword === 'parameters');
  return parameters && parseParameters(path, parameters.text);
}

/** The settings in the record of a picture; `path` as above. */
export function settingsOfRecord(path: string, record: JsonRecord): Partial<ImageSettings> {
  return fromRecord(path, record);
}

/** The A1111 text: prompt, negative prompt, and one line of `Key: value` pairs. */
export function formatParameters(settings: ImageSettings, version: string): string {
  const { prompt, negativePrompt, steps, sampler, cfgScale, seed, width, height, model } = settings;
  const pairs = [
    ['Steps', steps],
    ['Sampler', sampler],
    ['CFG scale', cfgScale],
    ['Seed', seed],
    ['Size', `${width}x${height}`],
    ['Model', model],
    ['Version', version],
  ] as const;
  const last = pairs.map(([key, value]) => `${key}: ${quote(String(value))}`).join(', ');
  return [prompt, ...(negativePrompt ? [`Negative prompt: ${negativePrompt}`] : []), last].join('\n');
}

/** What an A1111 text tells: whatever of the settings it has; keys that are not ours are passed over. */
export function parseParameters(path: string, text: string): Partial<ImageSettings> {
  const lines = text.trimEnd().split(/\r?\n/);
  // As A1111 does: a last line with fewer than three pairs belongs to the prompt.
  let pairs = parsePairs(lines.at(-1)!);
  if (pairs.size >= 3) lines.pop();
  else pairs = new Map();
  const negative = lines.findIndex((line, i) => i > 0 && line.startsWith('Negative prompt:'));
  const promptLines = negative < 0 ? lines : lines.slice(0, negative);
  const negativePrompt = lines.slice(promptLines.length).join('\n').slice('Negative prompt:'.length).trim();
  const size = /^(\d+)x(\d+)$/.exec(pairs.get('Size') ?? '');
  const number = (key: string) => (pairs.has(key) ? Number(pairs.get(key)) : undefined);
  return fromRecord(path, {
    prompt: promptLines.join('\n').trim(),
    negative_prompt: negativePrompt || undefined,
    seed: number('Seed'),
    steps: number('Steps'),
    cfg_scale: number('CFG scale'),
    sampler: pairs.get('Sampler'),
    width: size ? Number(size[1]) : undefined,
    height: size ? Number(size[2]) : undefined,
    model: pairs.get('Model'),
  });
}

function toRecord(settings: ImageSettings): JsonRecord {
  const { negativePrompt, cfgScale, more, ...same } = settings;
  return { ...more, ...same, negative_prompt: negativePrompt, cfg_scale: cfgScale };
}

const CHECKS: Record<string, (value: unknown) => boolean> = {
  prompt: (value) => typeof value === 'string',
  negative_prompt: (value) => typeof value === 'string',
  seed: (value) => Number.isSafeInteger(value) && (value as number) >= 0,
  steps: (value) => Number.isSafeInteger(value) && (value as number) >= 1,
  cfg_scale: (value) => Number.isFinite(value),
  sampler: (value) => typeof value === 'string',
  width: (value) => Number.isSafeInteger(value) && (value as number) >= 1,
  height: (value) => Number.isSafeInteger(value) && (value as number) >= 1,
  model: (value) => typeof value === 'string',
};

/** Checks the type of each known key; the others go to `more`. */
function fromRecord(path: string, record: JsonRecord): Partial<ImageSettings> {
  const settings: Record<string, unknown> = {};
  const more: [string, unknown][] = [];
  for (const [key, value] of Object.entries(record)) {
    if (value === undefined) continue;
    if (!Object.hasOwn(CHECKS, key)) {
      more.push([key, value]);
      continue;
    }
    if (!CHECKS[key]!(value)) throw senseless(path, `its ${key} is ${JSON.stringify(value).slice(0, 60)}`);
    settings[NAMES[key] ?? key] = value;
  }
  return more.length > 0 ? { ...settings, more: Object.fromEntries(more) } : settings;
}

const NAMES: Record<string, string | undefined> = {
  negative_prompt: 'negativePrompt',
  cfg_scale: 'cfgScale',
};

/** As A1111 quotes: a value with a comma, a colon or a line break becomes a JSON string. */
function quote(value: string): string {
  return /[,:\n"]/.test(value) ? JSON.stringify(value) : value;
}

/** `Key: value, Key: "quoted, value"`; read in one pass, since the text may be long and hostile. */
function parsePairs(line: string): Map<string, string> {
  const pairs = new Map<string, string>();
  for (let at = 0; at < line.length; ) {
    const colon = line.indexOf(':', at);
    if (colon < 0) break;
    const key = line.slice(at, colon).trim();
    at = colon + 1;
    while (line[at] === ' ') at++;
    let end = line[at] === '"' ? endOfString(line, at) : -1;
    let value = end < 0 ? undefined : unquote(line.slice(at, end));
    if (value === undefined) {
      end = line.indexOf(',', at);
      if (end < 0) end = line.length;
      value = line.slice(at, end).trim();
    }
    if (/^\w[\w \-/]{0,60}$/.test(key) && !pairs.has(key)) pairs.set(key, value);
    // On to the next pair, over whatever stands between the value and the comma.
    const comma = line.indexOf(',', end);
    at = comma < 0 ? line.length : comma + 1;
  }
  return pairs;
}

/** The place after the closing quote of the string that begins at `at`, or -1. */
function endOfString(line: string, at: number): number {
  for (let i = at + 1; i < line.length; i++) {
    if (line[i] === '\\') i++;
    else if (line[i] === '"') return i + 1;
  }
  return -1;
}

function unquote(text: string): string | undefined {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function senseless(path: string, why: string): Failure {
  return new Failure({ what: path, why: `${why}, which makes no sense`, fix: 'Give the settings as flags' });
}
