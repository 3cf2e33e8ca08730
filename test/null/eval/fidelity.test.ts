// Which pairs fidelity asks for, and when a sample counts.
import { describe, expect, test } from 'bun:test';
import { embeddedEmoji } from '../../../src/data/emoji/embedded.ts';
import { drawPairs, shareOf, trainedPairs } from '../../../src/eval/fidelity.ts';
import { resolveRecipe } from '../../../src/recipe/resolve.ts';

const set = await embeddedEmoji();
const recipe = (...sources: string[]) => {
  const text = ['[model]\npreset = "nano"', ...sources].join('\n[[data.source]]\n');
  return resolveRecipe({ file: { name: 'test.toml', text } }).recipe;
};
const QUICK = 'name = "emoji"\nsubset = "quickstart"';
const SHAPES = 'name = "shapes"';

describe('pairs', () => {
  test('are those of the recipe, without held-out ones', () => {
    const quick = trainedPairs(set, recipe(QUICK));
    expect(quick.length).toBe(128);
    const all = trainedPairs(set, recipe('name = "emoji"', SHAPES));
    expect(all.length).toBeGreaterThanOrEqual(1000);
    expect(all.filter((i) => set.pairs[i]!.heldOut)).toEqual([]);
    expect(all.slice(0, 128)).toEqual(quick);
    const noto = trainedPairs(set, recipe(`${QUICK}\nstyles = ["noto"]`));
    expect(new Set(noto.map((i) => set.pairs[i]!.style))).toEqual(new Set(['noto']));
    const mixed = recipe(`${QUICK}\ncount = 5`, `${QUICK}\ncount = 9`);
    expect(trainedPairs(set, mixed).length).toBe(9);
  });

  test('need emoji in the recipe', () => {
    expect(() => trainedPairs(set, recipe(SHAPES))).toThrow('was not trained on emoji');
    const none = recipe(SHAPES, 'name = "emoji"\nweight = 0');
    expect(() => trainedPairs(set, none)).toThrow('was not trained on emoji');
  });

  test('are drawn in one order for ever, each once', () => {
    const pairs = Array.from({ length: 1030 }, (_, i) => 2 * i);
    const drawn = drawPairs(pairs, 100);
    expect(new Set(drawn).size).toBe(100);
    expect(drawn.slice(0, 6)).toEqual(drawPairs(pairs, 6));
    expect(drawn.slice(0, 4)).toMatchInlineSnapshot(`
      [
        256,
        914,
        26,
        1410,
      ]
    `);
    expect(drawPairs(pairs.slice(0, 3), 100).sort()).toEqual([0, 2, 4]);
    expect(drawPairs([], 100)).toEqual([]);
  });
});

test('a sample counts when its own picture is the nearest', () => {
  const picture = (value: number) => new Uint8Array(12).fill(value);
  const sample = (value: number) => ({
    pixels: { width: 2, height: 2, channels: 3 as const, data: picture(value) },
    truncated: false,
  });
  const own = [picture(0), picture(100), picture(200)];
  expect(shareOf([sample(40), sample(60), sample(255)], own)).toEqual({ top1: 1, count: 3 });
  expect(shareOf([sample(60), sample(60), sample(255)], own)).toEqual({ top1: 2 / 3, count: 3 });
  const broken = { pixels: null, truncated: false };
  expect(shareOf([broken, sample(90), sample(255)], own)).toEqual({ top1: 2 / 3, count: 3 });
  expect(shareOf([], [])).toEqual({ top1: null, count: 0 });
});
