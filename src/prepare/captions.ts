// Captions of an item: read out of values and files beside the picture, chosen, cleaned.
import { extname } from 'node:path';
import { hash3 } from '../data/hash.ts';
import { readPythonJson } from '../io/mds/python-text.ts';
import { Source } from '../io/source.ts';
import { CAPTION_NAMES } from '../data/shard-picture.ts';
import { cleanCaption } from '../text/clean.ts';
import type { CaptionMode, CleanMode } from './item.ts';

/** Endings of files beside a picture, in the order in which their captions count. */
export const CAPTION_ENDINGS = ['.txt', '.caption', '.json'];

/** The texts of a value: one text (or its bytes), a list of them, or nothing. */
export function textsOf(value: unknown): string[] {
  if (typeof value === 'string') return [value];
  if (value instanceof Uint8Array) return [new TextDecoder().decode(value)];
  return Array.isArray(value) ? value.filter((text) => typeof text === 'string') : [];
}

/** The captions in a JSON object under the usual keys, or under `key`. */
export function captionsIn(json: unknown, key?: string): string[] {
  if (typeof json === 'string' || Array.isArray(json)) return textsOf(json);
  if (typeof json !== 'object' || json === null) return [];
  const entries = new Map(Object.entries(json).map(([name, value]) => [name.toLowerCase(), value]));
  const names = key === undefined ? CAPTION_NAMES : [key.toLowerCase()];
  for (const name of names) {
    const texts = textsOf(entries.get(name));
    if (texts.some((text) => text.trim() !== '')) return texts;
  }
  return [];
}

/** The captions of one file: of JSON those under the usual keys, else the whole text as one. */
export function captionsOfBytes(ending: string, bytes: Uint8Array, key?: string): string[] {
  const text = new TextDecoder().decode(bytes);
  if (ending !== '.json') return [text.replace(/\s+/g, ' ')];
  return captionsIn(readPythonJson(text), key);
}

/** Largest file with captions of one picture. */
const MAX_FILE_BYTES = 2 ** 24;
/** Longest caption that is cleaned up, which takes up to the square of its length; 77 tokens count at all. */
export const MAX_CLEANED = 2 ** 13;

/**
 * The captions of files beside a picture: under `key` of the JSON where it has that, else of all of them.
 * Throws where one cannot be read, is too large or broken JSON.
 */
export function captionsOfFiles(paths: readonly string[], key?: string): string[] {
  const isJson = (path: string) => extname(path).toLowerCase() === '.json';
  const asked = key === undefined ? [] : paths.filter(isJson).flatMap((path) => captionsOfFile(path, key));
  if (asked.length > 0) return asked;
  return paths.filter((path) => key === undefined || !isJson(path)).flatMap((path) => captionsOfFile(path));
}

function captionsOfFile(path: string, key?: string): string[] {
  using source = Source.open(path); // refuses pipes, which would be waited for
  if (source.size > MAX_FILE_BYTES) throw new Error(`${source.size} bytes are more than ${MAX_FILE_BYTES}`);
  const bytes = new Uint8Array(source.size);
  source.fill(bytes, 0);
  return captionsOfBytes(extname(path).toLowerCase(), bytes, key);
}

/**
 * Cleaned captions, empty ones left out, chosen by `mode`: the first; one drawn by seed and place; all
 * different ones; or all of them as one text with a blank between. None where nothing is left.
 */
export function chooseCaptions(
  texts: readonly string[],
  mode: CaptionMode,
  clean: CleanMode,
  seed: number,
  place: number,
): string[] {
  const cleaned = texts
    .map((text) => text.toWellFormed())
    .map((text) => (clean === 'reference' ? cleanCaption(text) : text.trim()))
    .filter((text) => text !== '');
  if (cleaned.length === 0) return [];
  switch (mode) {
    case 'first':
      return [cleaned[0]!];
    case 'random':
      return [cleaned[hash3(seed, place, 0) % cleaned.length]!];
    case 'all':
      return [...new Set(cleaned)];
    case 'join':
      return [cleaned.join(' ')];
  }
}
