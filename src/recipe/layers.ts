// The sources of recipe values (preset, file, environment, flags) as flat lists of dotted keys with their
// origin. Every unknown key and every bad value ends here, as a Failure that names the key, where it stands
// and what is near.

import { EXIT, Failure } from '../io/failure.ts';
import { checkValue, readValue } from './field.ts';
import { nearest } from './nearest.ts';
import { presetRows } from './presets.ts';
import { allKeys, findField, LISTS, TABLES } from './schema.ts';

/** A checked value and where it came from ("recipe.toml", "--set", "MICRODIFF_TRAIN_SEED", "preset nano"). */
export interface Given {
  readonly value: unknown;
  readonly origin: string;
}

/** Dotted key -> value. A list is written out: `stage.0.steps`; its length stands under `stage`. */
export type Layer = ReadonlyMap<string, Given>;

type Tree = Readonly<Record<string, unknown>>;

const listNames = Object.keys(LISTS);

/** Parses a recipe by its file name's extension: .toml, .yaml/.yml, .json/.jsonc. */
export function parseRecipe(name: string, text: string): Tree {
  const extension = /\.([^./]+)$/.exec(name)?.[1]?.toLowerCase() ?? '';
  const parse = PARSERS[extension];
  if (!parse) {
    throw new Failure({
      what: name,
      why: 'not a recipe by its name',
      fix: 'Recipes end in .toml, .yaml, .yml, .json or .jsonc',
      code: EXIT.usage,
    });
  }
  const tree = parsed(name, text, parse);
  if (!isTree(tree)) {
    throw new Failure({ what: name, why: 'holds a single value, not tables', code: EXIT.usage });
  }
  return tree;
}

const PARSERS: Readonly<Record<string, (text: string) => unknown>> = {
  toml: (text) => Bun.TOML.parse(text),
  yaml: (text) => Bun.YAML.parse(text) ?? {},
  yml: (text) => Bun.YAML.parse(text) ?? {},
  json: (text) => Bun.JSONC.parse(text),
  jsonc: (text) => Bun.JSONC.parse(text),
};

function parsed(name: string, text: string, parse: (text: string) => unknown): unknown {
  try {
    return parse(text.replace(/^\uFEFF/, ''));
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new Failure({ what: name, why, fix: 'Mend the file', code: EXIT.usage });
  }
}

function isTree(value: unknown): value is Tree {
  return typeof value === 'object' && value !== null && Object.getPrototypeOf(value) !== Array.prototype
    ? Object.prototype.toString.call(value) === '[object Object]'
    : false;
}

/** The layer of a parsed recipe; throws a Failure for unknown keys and bad values. */
export function treeLayer(tree: Tree, origin: string): Map<string, Given> {
  const layer = new Map<string, Given>();
  for (const [name, value] of Object.entries(tree)) {
    if (listNames.includes(name)) addList(layer, name, value, origin);
    else if (Object.hasOwn(TABLES, name)) addTable(layer, name, value, origin);
    else throw unknownKey(name, origin);
  }
  return layer;
}

function addTable(layer: Map<string, Given>, table: string, rows: unknown, origin: string): void {
  if (!isTree(rows)) throw notA('a table', table, rows, origin);
  for (const [name, value] of Object.entries(rows)) {
    const key = `${table}.${name}`;
    if (listNames.includes(key)) addList(layer, key, value, origin);
    else addValue(layer, key, value, origin);
  }
}

function addList(layer: Map<string, Given>, list: string, entries: unknown, origin: string): void {
  if (!Array.isArray(entries)) throw notA('a list of tables', list, entries, origin);
  layer.set(list, { value: entries.length, origin });
  for (const [i, entry] of entries.entries()) {
    if (!isTree(entry)) throw notA('a table', `${list}.${i}`, entry, origin);
    for (const [name, value] of Object.entries(entry)) addValue(layer, `${list}.${i}.${name}`, value, origin);
  }
}

function addValue(layer: Map<string, Given>, key: string, value: unknown, origin: string): void {
  const row = findField(key);
  if (!row) throw unknownKey(key, origin);
  layer.set(key, { value: checkValue(row, value, `${key} in ${origin}`), origin });
}

function notA(expected: string, key: string, value: unknown, origin: string): Failure {
  const got = Array.isArray(value) ? 'a list' : isTree(value) ? 'a table' : JSON.stringify(value);
  const list = listNames.find((name) => name === key || name.startsWith(`${key}.`));
  const fix = list ? `Write [[${list}]] for each entry` : `Write [${key}] above its keys`;
  return new Failure({
    what: `${key} in ${origin}`,
    why: `expected ${expected}, got ${got}`,
    fix,
    code: EXIT.usage,
  });
}

/** The layer of `--set key=value` assignments. */
export function setLayer(assignments: readonly string[]): Map<string, Given> {
  const layer = new Map<string, Given>();
  for (const assignment of assignments) {
    const [, key, written] = /^([^=]*)=(.*)$/s.exec(assignment) ?? [];
    if (key === undefined || written === undefined || key.trim() === '') {
      throw new Failure({
        what: `--set ${assignment}`,
        why: 'expected key=value',
        fix: 'Write for example --set optimizer.lr=1e-3',
        code: EXIT.usage,
      });
    }
    const name = key.trim().replace(/\[(\d+)\]/g, '.$1');
    const row = findField(name);
    if (!row) throw unknownKey(name, '--set');
    layer.set(name, { value: readValue(row, written, `${name} in --set`), origin: '--set' });
  }
  return layer;
}

/** Environment variable of a key: `optimizer.lr` -> MICRODIFF_OPTIMIZER_LR. */
export function envName(key: string): string {
  return `MICRODIFF_${key.replace(/\./g, '_').toUpperCase()}`;
}

/** The layer of the environment; variables that look like recipe keys but are none are refused. */
export function envLayer(env: Readonly<Record<string, string | undefined>>): Map<string, Given> {
  const layer = new Map<string, Given>();
  const names = new Map(allKeys().map((key) => [envName(key), key]));
  const tables = [...Object.keys(TABLES), ...Object.keys(LISTS)].map((table) => `${envName(table)}_`);
  for (const [name, written] of Object.entries(env)) {
    if (written === undefined || !tables.some((table) => name.startsWith(table))) continue;
    const key = names.get(name) ?? listKey(name, names);
    const row = key === undefined ? undefined : findField(key);
    if (key === undefined || !row) {
      const near = nearest(name, names.keys());
      throw new Failure({
        what: name,
        why: 'this environment variable is no recipe key',
        fix: near ? `Did you mean ${near}?` : 'See microdiff help recipe',
        code: EXIT.usage,
      });
    }
    layer.set(key, { value: readValue(row, written, `${key} in ${name}`), origin: name });
  }
  return layer;
}

/** MICRODIFF_STAGE_2_STEPS -> stage.2.steps, by way of the name with entry 0. */
function listKey(name: string, names: ReadonlyMap<string, string>): string | undefined {
  const index = /_(\d+)_/.exec(name)?.[1];
  if (index === undefined) return undefined;
  return names.get(name.replace(`_${index}_`, '_0_'))?.replace('.0.', `.${index}.`);
}

/** The layer of a preset; throws a Failure that names the nearest preset. */
export function presetLayer(given: Given): Map<string, Given> {
  const name = String(given.value);
  const preset = Object.hasOwn(presetRows, name) ? presetRows[name] : undefined;
  if (!preset) {
    const near = nearest(name, Object.keys(presetRows));
    throw new Failure({
      what: `model.preset in ${given.origin}`,
      why: `there is no preset ${JSON.stringify(name)}`,
      fix: near ? `Did you mean ${near}?` : `Choose from ${Object.keys(presetRows).join(', ')}`,
      code: EXIT.usage,
    });
  }
  return treeLayer(preset, `preset ${name}`);
}

function unknownKey(key: string, origin: string): Failure {
  return new Failure({ what: `${key} in ${origin}`, why: 'unknown key', fix: hint(key), code: EXIT.usage });
}

function hint(key: string): string {
  const keys = allKeys();
  const list = listNames.find(
    (name) => key.startsWith(`${name}.`) && !/^\d+\./.test(key.slice(name.length + 1)),
  );
  const indexed = list ? `${list}.0.${key.slice(list.length + 1)}` : '';
  if (findField(indexed)) return `${list} is a list: say ${indexed} for its first entry`;
  const index = /\.(\d+)\./.exec(key)?.[1];
  const plain = index === undefined ? key : key.replace(`.${index}.`, '.0.');
  const last = plain.split('.').at(-1)!;
  const elsewhere = keys.filter((candidate) => candidate.split('.').at(-1) === last);
  const tables = [...Object.keys(TABLES), ...listNames];
  const near =
    (key.includes('.') ? undefined : nearest(key, tables)) ??
    (elsewhere.length > 0 ? elsewhere.slice(0, 2).join(' or ') : undefined) ??
    nearest(plain, keys) ??
    nearTail(last);
  if (near === undefined) return 'See microdiff help recipe';
  return `Did you mean ${index === undefined ? near : near.replace('.0.', `.${index}.`)}?`;
}

/** The key whose last part is nearest, for a right name with a slip in the wrong table. */
function nearTail(last: string): string | undefined {
  const tails = new Map(allKeys().map((key) => [key.split('.').at(-1)!, key]));
  const tail = nearest(last, tails.keys());
  return tail === undefined ? undefined : tails.get(tail);
}
