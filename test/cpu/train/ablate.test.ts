// The command ablate: runs, table and plot; the same command again measures nothing anew.
import { afterAll, expect, test } from 'bun:test';
import { Place } from './program.ts';

const place = new Place();
afterAll(() => place.remove());

test('two cells on shapes, held-out pictures in a folder, and again', async () => {
  const { encodePng } = await import('../../../src/io/png.ts');
  for (let i = 0; i < 4; i++) {
    const data = new Uint8Array(8 * 8 * 3).map((_, at) => (at * (i + 7)) % 251);
    await Bun.write(place.at('held', `${i}.png`), encodePng({ width: 8, height: 8, channels: 3, data }));
    await Bun.write(place.at('held', `${i}.txt`), 'a red circle');
  }
  const args = ['ablate', 'tiny', '-o', 'out', '--held', 'held', '--steps', '4', '--points', '2'];
  const cells = ['--cells', 'deferred-75,naive-75', '--json'];
  const first = await place.run([...args, ...cells]);
  expect([first.code, first.err.includes('error')]).toEqual([0, false]);
  const records = first.out
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  expect(records.map(({ name }) => name)).toEqual(['deferred-75', 'naive-75']);
  for (const { points } of records) {
    expect(points.length).toBeGreaterThanOrEqual(2);
    for (const { loss, ci95, eflop } of points) {
      expect(ci95[0] < loss && loss < ci95[1] && eflop > 0).toBe(true);
    }
  }
  expect(JSON.parse(place.read('out', 'results.json'))).toEqual(records);
  const table = place.read('out', 'table.md').split('\n');
  expect(table).toHaveLength(5);
  // The other cell's loss is off the first's by the difference of the two, image by image.
  const ends = records.map(({ points }) => points.at(-1).loss);
  const told = Number(/\| ([+-]\d\.\d+) \(\+-\d/.exec(table.find((row) => row.includes('naive'))!)?.[1]);
  expect(told).toBeCloseTo(ends[1] - ends[0], 3);
  expect(Buffer.from(await Bun.file(place.at('out', 'ablation.png')).bytes()).toString('latin1', 1, 4)).toBe(
    'PNG',
  );
  const again = await place.run([...args, ...cells]);
  expect([again.code, again.out]).toEqual([0, first.out]);
}, 120_000);
