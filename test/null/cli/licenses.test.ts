// Licences: every package that goes into the executable is in the table, and every licence has its text.

import { expect, test } from 'bun:test';
import { dependencies } from '../../../package.json';
import { TEXTS, WORKS } from '../../../src/cli/licenses.ts';
import { PACKAGES } from '../../../src/data/emoji/join.ts';

test('every dependency is in the table with its version', () => {
  for (const [name, version] of Object.entries(dependencies)) {
    expect(WORKS).toContainEqual(expect.objectContaining({ name, version }));
  }
});

test('every source of the emoji pack is in the table', () => {
  const under: Record<string, string> = { '@iconify-json/fluent-emoji-flat': 'Fluent Emoji' };
  for (const name of PACKAGES) expect(WORKS.map((work) => work.name)).toContain(under[name] ?? name);
});

test('every licence in the table has its text', () => {
  for (const { licence } of WORKS) {
    const family = licence.replace(/-or-later$/, '');
    const text = Object.entries(TEXTS).find(([title]) => title.startsWith(family))?.[1];
    expect(text?.length).toBeGreaterThan(500);
  }
});
