// Command: whose work is inside the executable, under which licence, and the texts that have to come with it.

import inter from '@fontsource/inter/LICENSE' with { type: 'text' };
import { dependencies, devDependencies, version } from '../../package.json';
import { command } from './command.ts';
import { SHARED } from './flags.ts';
import apache from './licenses/apache-2.0.txt' with { type: 'text' };
import entities from './licenses/entities.txt' with { type: 'text' };
import lgpl from './licenses/lgpl-2.txt' with { type: 'text' };
import mit from './licenses/mit.txt' with { type: 'text' };
import openblas from './licenses/openblas.txt' with { type: 'text' };
import skia from './licenses/skia.txt' with { type: 'text' };
import unicode from './licenses/unicode-3.0.txt' with { type: 'text' };
import { stdout } from './stdout.ts';

interface Work {
  readonly name: string;
  readonly version: string;
  readonly licence: string;
  readonly holder: string;
  readonly use: string;
}

const OPENCLIP =
  'Gabriel Ilharco, Mitchell Wortsman, Nicholas Carlini, Rohan Taori, Achal Dave, Vaishaal Shankar, ' +
  'John Miller, Hongseok Namkoong, Hannaneh Hajishirzi, Ali Farhadi, Ludwig Schmidt';

/** Everything in the executable that somebody holds rights in. */
export const WORKS: readonly Work[] = [
  row('microdiff', version, 'MIT', 'the microdiff contributors', 'this program'),
  row('Bun', Bun.version, 'MIT', 'Oven', 'runtime'),
  row('JavaScriptCore', '', 'LGPL-2.0-or-later', 'Apple Inc. and others', 'inside Bun'),
  row('OpenBLAS', '', 'BSD-3-Clause', 'The OpenBLAS Project', 'yardstick of the benches'),
  row('@napi-rs/canvas', dependencies['@napi-rs/canvas'], 'MIT', 'lynweklm@gmail.com', 'drawing'),
  row('Skia', '', 'BSD-3-Clause', 'Google Inc.', 'inside @napi-rs/canvas'),
  row('chart.js', dependencies['chart.js'], 'MIT', 'Chart.js Contributors', 'plots'),
  row('@kurkle/color', '', 'MIT', 'Jukka Kurkela', 'inside chart.js'),
  row(
    '@fontsource/inter',
    dependencies['@fontsource/inter'],
    'OFL-1.1',
    'The Inter Project Authors',
    'font of sheets and plots',
  ),
  row('citty', dependencies.citty, 'MIT', 'Pooya Parsa', 'command line'),
  row('consola', dependencies.consola, 'MIT', 'Pooya Parsa', 'log'),
  row('msgpackr', dependencies.msgpackr, 'MIT', 'Kris Zyp', 'binary streams'),
  row('hyparquet', dependencies.hyparquet, 'MIT', 'Hyperparam', 'Parquet files'),
  row('hyparquet-compressors', dependencies['hyparquet-compressors'], 'MIT', 'Hyperparam', 'their codecs'),
  row('hysnappy', '', 'MIT', 'Hyperparam', 'inside hyparquet-compressors'),
  row('fzstd', '', 'MIT', 'Arjun Barrett', 'inside hyparquet-compressors'),
  row('entities', dependencies.entities, 'BSD-2-Clause', 'Felix Böhm', 'names of characters in captions'),
  row('ftfy', '6.3.1', 'Apache-2.0', 'Robyn Speer', 'tables and rules that repair captions'),
  row('diffusers', '', 'Apache-2.0', 'The HuggingFace Team', 'rules that clean captions'),
  row('CLIP', '', 'MIT', 'OpenAI', 'vocabulary of the tokenizer'),
  row('OpenCLIP', '', 'MIT', OPENCLIP, 'the same vocabulary, and rules of the tokenizer'),
  row('Noto Emoji', '', 'Apache-2.0', 'Google Inc.', 'pictures, style noto'),
  row(
    'emoji-datasource-google',
    packageVersion('emoji-datasource-google'),
    'MIT',
    'Cal Henderson',
    'its package',
  ),
  row('Fluent Emoji', '', 'MIT', 'Microsoft Corporation', 'pictures, styles fluent flat and fluent 3d'),
  row(
    '@lobehub/fluent-emoji-3d',
    packageVersion('@lobehub/fluent-emoji-3d'),
    'MIT',
    'LobeHub',
    'its package',
  ),
  row('emojilib', devDependencies.emojilib, 'MIT', 'Mu-An Chiou', 'keywords of the captions'),
  row('unicode-emoji-json', devDependencies['unicode-emoji-json'], 'MIT', 'Mu-An Chiou', 'names and groups'),
  row('Unicode emoji data', '', 'Unicode-3.0', 'Unicode, Inc.', 'inside unicode-emoji-json'),
];

/** Texts that must come with the works, by the title they are printed under. */
export const TEXTS: Readonly<Record<string, string>> = {
  'MIT (each work above with that licence, copyright by its holder)': mit,
  'BSD-3-Clause (OpenBLAS)': openblas,
  'BSD-3-Clause (Skia)': skia,
  'BSD-2-Clause (entities)': entities,
  'Apache-2.0 (Noto Emoji, reduced to 64 px on white; ftfy and diffusers, rewritten in TypeScript)': apache,
  'OFL-1.1 (the font Inter)': inter,
  'Unicode-3.0 (Unicode emoji data)': unicode,
  'LGPL-2.0 (JavaScriptCore; source: https://github.com/oven-sh/WebKit)': lgpl,
};

export const licenses = command({
  name: 'licenses',
  summary: 'Prints whose work is inside the executable, with the licence texts',
  flags: { json: SHARED.json },
  examples: [
    ['microdiff licenses | less', 'the table, then the texts'],
    ['microdiff licenses --json', 'the table as JSON'],
  ],
  run({ values }) {
    stdout.write(values.json ? `${JSON.stringify({ works: WORKS })}\n` : page());
    return 0;
  },
});

function page(): string {
  const rows = WORKS.map((work) => [
    `${work.name} ${work.version}`.trim(),
    work.licence,
    work.holder,
    work.use,
  ]);
  const widths = [0, 1, 2].map((i) => Math.max(...rows.map((cells) => cells[i]!.length)));
  const table = rows.map((cells) => cells.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join('  '));
  const texts = Object.entries(TEXTS).map(([title, text]) => `\n${'='.repeat(80)}\n${title}\n\n${text}`);
  return `${[...table, ...texts].join('\n').trimEnd()}\n`;
}

function row(name: string, version: string, licence: string, holder: string, use: string): Work {
  return { name, version, licence, holder, use };
}

function packageVersion(name: keyof typeof devDependencies): string {
  return devDependencies[name];
}
