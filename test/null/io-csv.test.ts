// CSV: quotes, line breaks in fields, rows that are broken, chunks that end anywhere; prompts from a column.
import { expect, test } from 'bun:test';
import { readCsv } from '../../src/io/csv.ts';
import { csvColumn } from '../../src/sample/columns.ts';

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const out: T[] = [];
  for await (const item of items) out.push(item);
  return out;
}
const rows = async (text: string, size = 1e6) => {
  const bytes = Buffer.from(text);
  const chunks = Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) =>
    bytes.subarray(i * size, (i + 1) * size),
  );
  return (await all(readCsv(chunks))).map((row) => ('error' in row ? row.error : row.fields));
};

test('fields, quotes, line breaks', async () => {
  const text = '\uFEFFa,b\r\n1,"x, ""y""\r\n\r\nz"\r\n,\n"",""""\n5" tall,it is "so"\nlast,"é"';
  const expected = [
    ['a', 'b'],
    ['1', 'x, "y"\n\nz'],
    ['', ''],
    ['', '"'],
    ['5" tall', 'it is "so"'],
    ['last', 'é'],
  ];
  expect(await rows(text)).toEqual(expected);
  for (const size of [1, 2, 3, 7]) expect(await rows(text, size)).toEqual(expected);
  expect(await rows('')).toEqual([]);
  expect(await rows('a\n\nb\n')).toEqual([['a'], [''], ['b']]);
});

test('what a writer quotes comes back', async () => {
  const cells = ['', ',', '"', '""', '\n', ' a ', 'x"y', '",\n"', '"\n'];
  const quote = (cell: string) => `"${cell.replaceAll('"', '""')}"`;
  const table = cells.map((a) => cells.map((b) => a + b));
  expect(await rows(table.map((row) => row.map(quote).join(',')).join('\r\n'))).toEqual(table);
});

test('broken rows are errors in their place', async () => {
  expect(await rows('"a"b,c\nd\n"e\nf')).toEqual([
    '"b" follows a closing quote',
    ['d'],
    'the quoted field at the end of the file has no closing quote',
  ]);
  expect((await rows(`"${'x'.repeat(99)}\n${'x'.repeat(1_048_500)}"\n`))[0]).toContain(
    'the row is longer than',
  );
  expect((await rows(`"${'x\n'.repeat(70_000)}"\n`))[0]).toBe('the row has more than 65536 lines');
  expect(await rows(`${','.repeat(20_000)}\na,b`)).toEqual([
    'the row has more than 16384 fields',
    ['a', 'b'],
  ]);
});

test('prompts from a column', async () => {
  const items = (text: string, column = 'caption') => all(csvColumn([Buffer.from(text)], column));
  const text = 'id,caption\n1,"a fox, red"\n2\n3,\n4,"x"y\n5,{"prompt"}\n';
  expect(await items(text)).toEqual([
    { index: 0, prompt: 'a fox, red' },
    { index: 1, error: 'the row has 1 field, caption is column 2' },
    { index: 2, error: 'the line is blank' },
    { index: 3, error: '"y" follows a closing quote' },
    { index: 4, prompt: '{"prompt"}' },
  ]);
  expect(items(text, 'captoin')).rejects.toThrow(
    '--column captoin: the CSV has the columns id, caption. Did you mean caption?',
  );
  expect(items('')).rejects.toThrow('--column caption: the CSV is empty');
});
