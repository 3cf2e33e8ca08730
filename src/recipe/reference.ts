// The key reference in Markdown, printed by `microdiff help recipe` and kept in recipes/README.md.

import { type Field, LARGEST, show } from './field.ts';
import { envName } from './layers.ts';
import { NAMED } from './named.ts';
import { presetRows } from './presets.ts';
import { LISTS, type Table, TABLES } from './schema.ts';

/** Every key of a recipe with kind, default, unit and meaning, made from the schema. */
export function recipeReference(): string {
  const once = Object.entries(TABLES).map(([name, rows]) => section(`[${name}]`, rows));
  const many = Object.entries(LISTS).map(([name, rows]) => section(`[[${name}]]`, rows));
  return [
    '# Recipe keys',
    [
      'A recipe is a TOML file (YAML and JSONC are read, too). ' +
        'A value comes from the first of these that gives it:',
      '`--set table.key=value`, the environment',
      `(\`${envName('optimizer.lr')}\`), the file, the preset in \`model.preset\`, the default.`,
      'A list is addressed by its entry: `--set stage.0.steps=500`.',
    ].join('\n'),
    `Presets: ${codeList(Object.keys(presetRows))}. ` +
      `Recipes inside the program: ${codeList(Object.keys(NAMED))}.`,
    ...once,
    ...many,
  ]
    .join('\n\n')
    .concat('\n');
}

function section(title: string, rows: Table): string {
  const lines = Object.entries(rows).map(([name, row]) => {
    const cells = [
      `\`${name}\``,
      kindWords(row),
      row.default === undefined ? '-' : `\`${show(row.default)}\``,
    ];
    return `| ${[...cells, meaning(row)].join(' | ')} |`;
  });
  return [`## \`${title}\``, '', '| key | kind | default | meaning |', '|---|---|---|---|', ...lines].join(
    '\n',
  );
}

function kindWords(row: Field): string {
  if (row.options) return row.options.map((option) => `\`${option}\``).join(', ');
  const words = {
    int: 'whole number',
    real: 'number',
    bool: 'true, false',
    text: 'text',
    choice: '',
    reals: 'numbers',
    texts: 'texts',
    interval: 'steps or time',
  }[row.kind];
  const min = row.min !== undefined ? ` >= ${row.min}` : '';
  const max = row.max === LARGEST ? ' < 2^53' : row.max !== undefined ? ` <= ${row.max}` : '';
  return `${words}${min}${min && max ? ',' : ''}${max}`;
}

function meaning(row: Field): string {
  const follows = row.follows ? `; equal to \`${row.follows}\`, and taken from it when left out` : '';
  return `${row.meaning}${follows}`.replace(/\|/g, '\\|');
}

function codeList(names: readonly string[]): string {
  return names.map((name) => `\`${name}\``).join(', ');
}
