// Command: the published weights that pull knows, and what of them is here.

import { statSync } from 'node:fs';
import { findPulled } from '../io/hub.ts';
import { type HubSettings, hubSettings } from '../io/hub/settings.ts';
import { filesOf, REGISTRY, type Weights } from '../sample/registry.ts';
import { command } from './command.ts';
import { SHARED } from './flags.ts';
import { size } from './pull.ts';
import { stdout } from './stdout.ts';

export const list = command({
  name: 'list',
  summary: 'Lists the published weights that pull knows: what is here, sizes, licences, what they need',
  flags: { json: SHARED.json },
  examples: [
    ['microdiff list', 'a table'],
    ['microdiff list --json', 'the same for programs, with the path of every file that is here'],
  ],
  run({ values }) {
    const settings = hubSettings(process.env);
    const rows = REGISTRY.map((entry) => describe(entry, settings));
    if (values.json) {
      stdout.write(`${JSON.stringify({ cache: settings.cache, weights: rows })}\n`);
      return 0;
    }
    const heads = ['name', 'here', 'size', 'licence', 'needs', 'what'];
    const cells = rows.map((row) => [
      row.name,
      row.here ? 'yes' : row.files.some(({ file }) => file !== null) ? 'partly' : '-',
      sizeOf(row),
      row.licence.confirmed ? row.licence.name : `${row.licence.name} (unconfirmed)`,
      row.needs.join(', ') || '-',
      row.summary,
    ]);
    stdout.write(table([heads, ...cells]));
    return 0;
  },
});

type Row = ReturnType<typeof describe>;

function describe(entry: Weights, settings: HubSettings) {
  const { name, kind, summary, licence, needs } = entry;
  const remote = filesOf(entry);
  const files = entry.files.map(({ path, about_bytes, sha256 }, i) => {
    const file = findPulled(remote[i]!, settings) ?? null;
    return { path, file, bytes: file === null ? null : statSync(file).size, about_bytes, sha256 };
  });
  const here = files.every(({ file }) => file !== null);
  const address = entry.hub ?? entry.url ?? '';
  return { name, kind, summary, address, licence, needs, here, files };
}

function sizeOf(row: Row): string {
  if (row.here) return size(row.files.reduce((sum, { bytes }) => sum + (bytes ?? 0), 0));
  const about = row.files.reduce((sum, { about_bytes }) => sum + (about_bytes ?? 0), 0);
  return about > 0 ? `~${size(about)}` : '?';
}

function table(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((cells) => cells[column]!.length)));
  return rows
    .map(
      (cells) =>
        `${cells
          .map((cell, column) => cell.padEnd(widths[column]!))
          .join('  ')
          .trimEnd()}\n`,
    )
    .join('');
}
