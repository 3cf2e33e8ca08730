// `train --data DIR` from outside: pictures of the user's in place of the recipe's sources.
import { afterAll, expect, test } from 'bun:test';
import { cpSync, mkdirSync, writeFileSync } from 'node:fs';
import { createCanvas } from '@napi-rs/canvas';
import { Place } from './program.ts';

const place = new Place();
afterAll(() => place.remove());

function put(folder: string, name: string, colour: string, caption: string | null): void {
  const canvas = createCanvas(12, 10);
  const context = canvas.getContext('2d');
  context.fillStyle = colour;
  context.fillRect(0, 0, 12, 10);
  mkdirSync(place.at(folder), { recursive: true });
  writeFileSync(place.at(folder, `${name}.png`), canvas.toBuffer('image/png'));
  if (caption !== null) writeFileSync(place.at(folder, `${name}.txt`), caption);
}

test('two folders, mixed equally; what is left out is named; changed and moved pictures', async () => {
  put('one', 'a', '#ff0000', 'red');
  put('one', 'b', '#00ff00', 'green');
  put('one', 'c', '#00ff00', null);
  put('two', 'd', '#0000ff', 'blue');
  const args = ['train', 'tiny', '--data', 'one', '--data', 'two', '-o', 'run'];
  const { code, out, err } = await place.run([...args, '--steps', '2']);
  expect([code, out]).toEqual([0, 'run\n']);
  expect(err).toStartWith('warning: one: 1 left out without a caption (c.png)\n');
  const { data } = Bun.TOML.parse(place.read('run', 'recipe.toml')) as { data: { source: object[] } };
  expect(data.source).toMatchObject([
    { name: 'folder', path: 'one' },
    { name: 'folder', path: 'two' },
  ]);
  expect(data.source.length).toBe(2);

  const same = await place.run([...args, '--steps', '3']);
  expect(same.err).not.toContain('the pictures are not those');
  put('two', 'e', '#ffffff', 'white');
  const changed = await place.run([...args, '--steps', '4']);
  expect(changed.err).toContain('warning: the pictures are not those that step-00000003 was trained on\n');
  expect([same.code, changed.code]).toEqual([0, 0]);
  expect(place.metrics('run').map(({ step }) => step)).toEqual([1, 2, 3, 4]);

  const moved = ['train', 'tiny', '--data', 'elsewhere', '--data', 'two', '-o', 'run', '--steps', '5'];
  cpSync(place.at('one'), place.at('elsewhere'), { recursive: true });
  expect(await place.run(moved)).toMatchObject({ code: 0 });
  const recipe = place.read('run', 'recipe.toml');
  const other = await place.run(moved.map((word) => (word === 'two' ? 'one' : word)));
  expect(other.code).toBe(2);
  expect(other.err).toEndWith(
    'error: run: the pictures are not those that step-00000005 was trained on. ' +
      'Give those of the run, or another folder with -o\n',
  );
  expect(place.read('run', 'recipe.toml')).toBe(recipe);

  const drawn = await place.run(['sample', '-m', 'run', 'a blue square', '--steps', '2', '-o', 'blue.png']);
  expect([drawn.code, JSON.parse(drawn.out)]).toMatchObject([0, { file: 'blue.png', width: 8 }]);
});
