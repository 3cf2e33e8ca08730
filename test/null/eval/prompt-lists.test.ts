// Lists of prompts: COCO's caption files, tables, plain lines; what is wrong with them.
import { afterAll, describe, expect, test } from 'bun:test';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readPromptList } from '../../../src/eval/prompt-lists.ts';

const folder = mkdtempSync(join(tmpdir(), 'prompts-'));
afterAll(() => rmSync(folder, { recursive: true }));

function file(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}

describe('prompts', () => {
  const annotations = [
    { image_id: 9, id: 50, caption: 'later' },
    { image_id: 9, id: 5, caption: 'a cat \n' },
    { image_id: 2, id: 60, caption: 'a dog' },
    { image_id: 4, id: 7, caption: 'a bus' },
  ];
  const coco = file('captions.json', JSON.stringify({ images: [], annotations }));

  test('of COCO: one caption an image, drawn by the seed', async () => {
    const all = await readPromptList(coco, { seed: 0 });
    expect(all.prompts.toSorted()).toEqual(['a bus', 'a cat', 'a dog']);
    expect(all.chosen).toContain("3 of 3 images' first captions");
    const one = await readPromptList(coco, { seed: 0, count: 1 });
    expect(one.prompts).toEqual(all.prompts.slice(0, 1));
    const orders = await Promise.all([1, 2, 3, 4, 5].map((seed) => readPromptList(coco, { seed })));
    expect(new Set(orders.map(({ prompts }) => prompts.join())).size).toBeGreaterThan(1);
    expect(readPromptList(coco, { seed: 0, count: 4 })).rejects.toThrow('has 3 prompts, 4 are asked for');
  });

  test('one a line, text or JSON, and a column of a table', async () => {
    const lines = file('p.txt', '\uFEFFa cat\r\n{"prompt": "a dog"}\na bus');
    expect((await readPromptList(lines, { seed: 0 })).prompts).toEqual(['a cat', 'a dog', 'a bus']);
    expect((await readPromptList(lines, { seed: 0, count: 2 })).prompts).toEqual(['a cat', 'a dog']);
    const table = file('p.csv', 'id,text\n1,a cat\n2,"a dog, brown"\n');
    const { prompts } = await readPromptList(table, { seed: 0, column: 'text' });
    expect(prompts).toEqual(['a cat', 'a dog, brown']);
  });

  test('of a JSON list are its texts', async () => {
    const { prompts } = await readPromptList(file('list.json', '["a cat",\n "a dog "]\n'), { seed: 0 });
    expect(prompts).toEqual(['a cat', 'a dog']);
    const wrong = readPromptList(file('l.json', '["a cat", {"caption": "a dog"}]'), { seed: 0 });
    await expect(wrong).rejects.toThrow('entry 1 is no text');
  });

  test('with settings of their own are for scores alone', async () => {
    const list = file('own.jsonl', '{"prompt": "a cat"}\n{"prompt": "a dog", "seed": 3}\n');
    expect((await readPromptList(list, { seed: 0 })).prompts).toEqual(['a cat', 'a dog']);
    const drawn = readPromptList(list, { seed: 0, alike: true });
    await expect(drawn).rejects.toThrow('own.jsonl:2: seed of its own');
  });

  test('of a table without its column are not its lines', async () => {
    const table = readPromptList(file('t.csv', 'id,text\n1,a cat\n'), { seed: 0 });
    await expect(table).rejects.toThrow('Write --column NAME');
  });

  test('that are broken are refused with their place', async () => {
    const wrong = (name: string, text: string) => readPromptList(file(name, text), { seed: 0 });
    expect(wrong('blank.txt', 'a cat\n\na dog\n')).rejects.toThrow('blank.txt:2: the line is blank');
    expect(wrong('none.txt', '')).rejects.toThrow('has 0 prompts');
    expect(wrong('b.json', '{"annotations": [{"id": 1}]}')).rejects.toThrow('annotation 0 lacks image_id');
    expect(wrong('c.json', '{"images": []}')).rejects.toThrow('no list of annotations');
    expect(wrong('d.json', '{"annotations": [')).rejects.toThrow('broken JSON');
  });
});
