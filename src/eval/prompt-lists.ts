// Lists of prompts that a model is measured on: COCO's caption files, JSON lists, tables with a column, one
// prompt a line.
import { readFileSync } from 'node:fs';
import { Permutation } from '../data/order.ts';
import { EXIT, Failure } from '../io/failure.ts';
import { osFailure } from '../io/oserror.ts';
import { readTables } from '../sample/columns.ts';
import { isBad, parsePrompt } from '../sample/prompts.ts';

/** As many as the paper and others draw of COCO's validation set. */
export const COCO_COUNT = 30_000;

export interface PromptList {
  readonly prompts: readonly string[];
  /** How they were chosen, for the output. */
  readonly chosen: string;
}

export interface PromptListOptions {
  /** Left out: 30,000 of a COCO file, all of another. */
  readonly count?: number | undefined;
  /** Column of a table (CSV, Parquet). */
  readonly column?: string | undefined;
  /** Every prompt is drawn alike: a line with settings of its own is a Failure. */
  readonly alike?: boolean;
  /** Order in which captions of a COCO file are drawn. */
  readonly seed: number;
}

/** Reads a list; one that is empty, shorter than `count` or broken is a Failure. */
export async function readPromptList(path: string, options: PromptListOptions): Promise<PromptList> {
  const { count, column, seed, alike = false } = options;
  if (column !== undefined) {
    const prompts: string[] = [];
    for await (const item of readTables([path], column)) {
      if (isBad(item)) throw new Failure({ what: `${path}: row ${item.index}`, why: item.error });
      prompts.push(item.prompt);
    }
    return firstOf(path, prompts, count);
  }
  if (/\.(csv|parquet)$/i.test(path)) {
    const why = 'is a table, and which column holds the prompts is not said';
    throw new Failure({ what: path, why, fix: 'Write --column NAME', code: EXIT.usage });
  }
  const text = readText(path);
  const first = path.toLowerCase().endsWith('.json') ? text.trimStart()[0] : undefined;
  if (first === '[') return firstOf(path, listOf(path, text), count);
  const coco = first === '{' ? captionsOf(path, text) : null;
  if (!coco) {
    const lines = text.split('\n');
    if (lines.at(-1) === '') lines.pop();
    const prompts = lines.map((line, index) => {
      const item = parsePrompt({ index, text: line.replace(/\r$/, '') });
      const refuse = (why: string) => new Failure({ what: `${path}:${index + 1}`, why });
      if (isBad(item)) throw refuse(item.error);
      const own = Object.keys(item).find((key) => key !== 'index' && key !== 'prompt');
      if (alike && own) throw refuse(`${own} of its own is not for pictures that are compared`);
      return item.prompt;
    });
    return firstOf(path, prompts, count);
  }
  const wanted = Math.min(count ?? COCO_COUNT, count === undefined ? coco.length : Number.POSITIVE_INFINITY);
  checkCount(path, coco.length, wanted);
  const order = new Permutation(coco.length, seed, 0);
  return {
    prompts: Array.from({ length: wanted }, (_, i) => coco[order.at(i)]!),
    chosen: `${wanted} of ${coco.length} images' first captions, drawn by seed ${seed}`,
  };
}

function firstOf(path: string, prompts: readonly string[], count = prompts.length): PromptList {
  checkCount(path, prompts.length, count);
  return { prompts: prompts.slice(0, count), chosen: `the first ${count} of ${prompts.length}` };
}

function checkCount(path: string, has: number, wanted: number): void {
  if (has >= wanted && has > 0) return;
  throw new Failure({
    what: path,
    why: `has ${has} prompts, ${Math.max(1, wanted)} are asked for`,
    fix: 'Ask for fewer with --count',
    code: EXIT.usage,
  });
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8').replace(/^\uFEFF/, '');
  } catch (error) {
    throw osFailure(error, path, 'read');
  }
}

function refusal(path: string, why: string): Failure {
  const fix = 'Give captions_*.json of COCO, a JSON list of texts, or one prompt a line in a .txt';
  return new Failure({ what: path, why, fix });
}

function parsed(path: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw refusal(path, `broken JSON: ${error instanceof Error ? error.message : error}`);
  }
}

/** A JSON list of texts. */
function listOf(path: string, text: string): string[] {
  return (parsed(path, text) as unknown[]).map((entry, i) => {
    if (typeof entry === 'string' && entry.trim() !== '') return entry.trim();
    throw refusal(path, `entry ${i} is no text`);
  });
}

/** Of every image of a COCO caption file the caption with the smallest number, by the images' numbers. */
function captionsOf(path: string, text: string): string[] {
  const file = parsed(path, text) as { annotations?: unknown };
  if (!Array.isArray(file.annotations)) throw refusal(path, 'has no list of annotations');
  const first = new Map<number, { id: number; caption: string }>();
  for (const [i, entry] of file.annotations.entries()) {
    const { image_id, id, caption } = (entry ?? {}) as Readonly<Record<string, unknown>>;
    if (typeof image_id !== 'number' || typeof id !== 'number' || typeof caption !== 'string') {
      throw refusal(path, `annotation ${i} lacks image_id, id or caption`);
    }
    const known = first.get(image_id);
    if (!known || id < known.id) first.set(image_id, { id, caption: caption.trim() });
  }
  return [...first].sort((a, b) => a[0] - b[0]).map(([, { caption }]) => caption);
}
