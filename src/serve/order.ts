// What a client asks for: the body of POST /v1/images/generations, read with suspicion. OpenAI's fields and
// our own; a field that is not known, or that cannot be honoured, is refused by name.
import { didYouMean } from '../recipe/nearest.ts';
import { jobsOf } from '../sample/batches.ts';
import { PROMPT_FIELDS } from '../sample/prompts.ts';
import type { Prompt } from '../sample/prompts.ts';
import { Refusal } from './answer.ts';
import type { Wanted } from './queue.ts';
import type { EngineFacts } from './wire.ts';

/** What a server allows. */
export interface Limits {
  /** Pictures of one request. */
  readonly count: number;
  readonly steps: number;
}

/** Bytes of a body. */
export const MAX_BODY = 64 * 1024;

/** Previews that one picture may have. */
export const MAX_PARTIAL = 20;

/** The longest side of a picture, unless the model's own is longer. */
const MAX_SIDE = 2048;
const MAX_SCALE = 64;

export interface ImageOrder {
  readonly wanted: readonly Wanted[];
  /** As OpenAI writes it: "256x256". */
  readonly size: string;
  readonly format: 'b64_json' | 'url';
  /** Server-sent events: previews and pictures as they come. */
  readonly stream: boolean;
}

type Check = (value: unknown) => string | undefined;

const oneOf =
  (...options: readonly string[]): Check =>
  (value) =>
    typeof value === 'string' && options.includes(value) ? undefined : `must be one of ${options.join(', ')}`;
const whole =
  (min: number, max: number): Check =>
  (value) =>
    Number.isSafeInteger(value) && (value as number) >= min && (value as number) <= max
      ? undefined
      : `must be a whole number from ${min} to ${max}`;
const text: Check = (value) => (typeof value === 'string' ? undefined : 'must be a text');
const truth: Check = (value) => (typeof value === 'boolean' ? undefined : 'must be true or false');

/** All fields but those that say how a picture looks; of `quality` and its like, what we do anyway. */
function checksFor(limits: Limits): Readonly<Record<string, Check>> {
  const { out: _, ...fields } = PROMPT_FIELDS;
  return {
    ...fields,
    steps: whole(1, limits.steps),
    n: whole(1, limits.count),
    size: text,
    response_format: oneOf('b64_json', 'url'),
    stream: truth,
    partial_images: whole(0, MAX_PARTIAL),
    model: text,
    user: text,
    output_format: oneOf('png'),
    quality: oneOf('auto', 'standard'),
    background: oneOf('auto', 'opaque'),
    moderation: oneOf('auto'),
  };
}

interface Body extends Omit<Prompt, 'index' | 'out' | 'size'> {
  readonly n?: number;
  readonly size?: string;
  readonly response_format?: 'b64_json' | 'url';
  readonly stream?: boolean;
  readonly partial_images?: number;
  readonly model?: string;
}

/** Reads a body; throws a Refusal (400, 404) that names the field. */
export function readOrder(bytes: Uint8Array, facts: EngineFacts, limits: Limits): ImageOrder {
  const { size, ...body } = checkedBody(bytes, limits);
  if (body.model !== undefined && body.model !== facts.model) {
    const message = `model ${JSON.stringify(body.model)} is not here: this server draws with ${facts.model}`;
    throw new Refusal(404, 'model_not_found', message, { param: 'model' });
  }
  const stream = body.stream ?? false;
  if (stream && body.response_format === 'url') {
    throw wrong('response_format', 'a stream carries its pictures itself: use b64_json');
  }
  if (!stream && body.partial_images) throw wrong('partial_images', 'needs "stream": true');
  const scale = scaleOf(size ?? 'auto', facts.side);
  const defaults = {
    ...facts.defaults,
    negative_prompt: '',
    seed: body.seed ?? drawSeed(),
    guidance_interval: null,
  };
  const jobs = jobsOf({ ...body, index: 0 }, { size: facts.batch, defaults, count: body.n ?? 1 });
  return {
    wanted: jobs.map(({ index: _, out: __, ...settings }) => {
      return { settings, scale, previews: body.partial_images ?? 0 };
    }),
    size: `${scale * facts.side}x${scale * facts.side}`,
    format: body.response_format ?? 'b64_json',
    stream,
  };
}

function checkedBody(bytes: Uint8Array, limits: Limits): Body {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch {
    throw new Refusal(400, 'invalid_json', 'the body is not JSON in UTF-8');
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new Refusal(400, 'invalid_json', 'the body must be a JSON object');
  }
  const checks = checksFor(limits);
  const body: Record<string, unknown> = {};
  for (const [name, field] of Object.entries(value)) {
    if (!Object.hasOwn(checks, name)) {
      const near = didYouMean(name.slice(0, 64), Object.keys(checks));
      throw wrong(name.slice(0, 64), `is not a field that is known here${near ? `. ${near}` : ''}`);
    }
    if (field === null) continue; // OpenAI's clients write null for what they leave out
    const why = checks[name]!(field);
    if (why !== undefined) throw wrong(name, `${why}, got ${shown(field)}`);
    body[name] = field;
  }
  if (body.prompt === undefined) throw wrong('prompt', 'is missing');
  return body as unknown as Body; // every field has passed its check
}

/** By what factor a size enlarges the model's own; a Refusal where it is no multiple of it. */
function scaleOf(size: string, side: number): number {
  if (size === 'auto') return 1;
  const [, width, height] = /^(\d{1,5})x(\d{1,5})$/.exec(size) ?? [];
  const scale = Number(width) / side;
  if (width === height && Number.isInteger(scale) && scale >= 1 && scale <= largestScale(side)) return scale;
  const top = side * largestScale(side);
  const allowed = top === side ? `${side}x${side}` : `a multiple of ${side}x${side} up to ${top}x${top}`;
  throw wrong('size', `must be auto or ${allowed}, got ${shown(size)}`);
}

/** The most that a picture of this side is enlarged. */
export function largestScale(side: number): number {
  return Math.max(1, Math.min(MAX_SCALE, Math.floor(MAX_SIDE / side)));
}

function wrong(param: string, why: string): Refusal {
  return new Refusal(400, 'invalid_value', `${param} ${why}`, { param });
}

function shown(value: unknown): string {
  const words = JSON.stringify(value);
  return words.length > 80 ? `${words.slice(0, 77)}...` : words;
}

/** A seed that can still be read out and typed: 0 .. 2^32 - 1. */
function drawSeed(): number {
  return crypto.getRandomValues(new Uint32Array(1))[0]!;
}
