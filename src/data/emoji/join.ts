// Which emoji go into the pack: the five packages joined by code points, with names, groups and keywords.
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { Failure } from '../../io/failure.ts';

/** Drawing styles, in the order in which they stand in the pack. The names are what users type. */
export const STYLES = ['noto', 'fluent flat', 'fluent 3d'] as const;
export type Style = (typeof STYLES)[number];

/** The packages that the pack is made from; versions are pinned in pinned.json. */
export const PACKAGES = [
  'emoji-datasource-google',
  '@iconify-json/fluent-emoji-flat',
  '@lobehub/fluent-emoji-3d',
  'emojilib',
  'unicode-emoji-json',
] as const;

export interface Source {
  readonly name: string;
  readonly style: Style;
  readonly group: string;
  readonly keywords: readonly string[];
  /** PNG, WebP or SVG bytes. */
  readonly image: Uint8Array;
}

interface DatasourceEntry {
  readonly unified: string;
  readonly image: string;
  readonly has_img_google: boolean;
  readonly sort_order: number;
}
interface UnicodeEntry {
  readonly name: string;
  readonly group: string;
}
interface IconSet {
  readonly icons: Readonly<Record<string, { readonly body: string }>>;
  readonly aliases?: Readonly<Record<string, { readonly parent: string }>>;
}

const KEYWORDS_KEPT = 4;

/**
 * Reads the packages under `modules` (a node_modules folder) and joins them.
 * Pairs come sorted by the Unicode order of the emoji, then by style. Skin-tone variants are left out: five
 * near-copies of one picture teach little and would outnumber everything else.
 */
export async function joinPackages(modules: string): Promise<Source[]> {
  const entries: DatasourceEntry[] = await json(modules, 'emoji-datasource-google/emoji.json');
  const unicode: Record<string, UnicodeEntry> = await json(modules, 'unicode-emoji-json/data-by-emoji.json');
  const words: Record<string, string[]> = await json(modules, 'emojilib/dist/emoji-en-US.json');
  const flat: IconSet = await json(modules, '@iconify-json/fluent-emoji-flat/icons.json');
  const flatNames: Record<string, string> = await json(modules, '@iconify-json/fluent-emoji-flat/chars.json');
  const folder3d = join(modules, '@lobehub/fluent-emoji-3d/assets');

  const nameOf = new Map(Object.entries(unicode).map(([emoji, entry]) => [keyOfEmoji(emoji), entry]));
  const wordsOf = new Map(Object.entries(words).map(([emoji, list]) => [keyOfEmoji(emoji), list]));
  const flatOf = new Map(Object.entries(flatNames).map(([code, icon]) => [keyOfCodes(code), icon]));
  const file3d = new Map(readdirSync(folder3d).map((file) => [keyOfCodes(file.replace('.webp', '')), file]));

  const sources: Source[] = [];
  const sorted = entries.filter((e) => e.has_img_google).sort((a, b) => a.sort_order - b.sort_order);
  for (const entry of sorted) {
    const key = keyOfCodes(entry.unified);
    const about = nameOf.get(key);
    if (about === undefined) continue; // the five bare skin-tone swatches are no pictures of anything
    const name = plainName(about.name).replace(/^flag (?=.)/, 'flag of ');
    // Microsoft draws no country flags; those in the 3D package are of unclear origin.
    const isCountryFlag = name.startsWith('flag of ');
    const keywords = chooseKeywords(name, wordsOf.get(key) ?? []);
    const add = (style: Style, image: Uint8Array) =>
      sources.push({ name, style, group: about.group, keywords, image });

    add('noto', await bytes(modules, `emoji-datasource-google/img/google/64/${entry.image}`));
    const icon = flatOf.get(key);
    if (icon !== undefined) add('fluent flat', svg(flat, icon));
    const file = file3d.get(key);
    if (file !== undefined && !isCountryFlag)
      add('fluent 3d', await bytes(modules, `@lobehub/fluent-emoji-3d/assets/${file}`));
  }
  return sources;
}

/** Hyphen-separated hex code points without variation selectors, which the packages write differently. */
function keyOfCodes(codes: string): string {
  return codes
    .toLowerCase()
    .split('-')
    .filter((code) => code !== 'fe0f')
    .map((code) => code.padStart(4, '0'))
    .join('-');
}

function keyOfEmoji(emoji: string): string {
  return keyOfCodes([...emoji].map((c) => c.codePointAt(0)!.toString(16)).join('-'));
}

/** Unicode's short name as a user would type it: lower case, straight quotes. */
function plainName(name: string): string {
  return name.toLowerCase().replaceAll('’', "'").replaceAll('“', '"').replaceAll('”', '"').trim();
}

/** The first few keywords that are words and say something that the name does not. */
function chooseKeywords(name: string, list: readonly string[]): string[] {
  const known = new Set(name.split(/[^\p{L}\p{N}]+/u));
  const chosen: string[] = [];
  for (const raw of list) {
    const keyword = plainName(raw.replaceAll('_', ' '));
    if (!/^[a-z][a-z ]*[a-z]$/.test(keyword)) continue;
    const words = keyword.split(' ');
    if (words.every((word) => known.has(word))) continue;
    for (const word of words) known.add(word);
    chosen.push(keyword);
    if (chosen.length === KEYWORDS_KEPT) break;
  }
  return chosen;
}

function svg(set: IconSet, icon: string): Uint8Array {
  const body = (set.icons[icon] ?? set.icons[set.aliases?.[icon]?.parent ?? ''])?.body;
  if (body === undefined) throw new Failure({ what: `fluent flat icon ${icon}`, why: 'not in the icon set' });
  const size = 'width="256" height="256" viewBox="0 0 32 32"';
  const text = `<svg xmlns="http://www.w3.org/2000/svg" ${size}>${body}</svg>`;
  return new TextEncoder().encode(text);
}

async function json<T>(modules: string, path: string): Promise<T> {
  return JSON.parse(new TextDecoder().decode(await bytes(modules, path))) as T;
}

async function bytes(modules: string, path: string): Promise<Uint8Array> {
  const file = Bun.file(join(modules, path));
  if (!(await file.exists())) {
    throw new Failure({ what: join(modules, path), why: 'no such file', fix: 'Run `bun install`' });
  }
  return file.bytes();
}
