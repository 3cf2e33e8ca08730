// Drawn shapes read off pictures: every shape, colour and relation, clean, noisy and blurred; and how a
// reading is compared with what was asked for.
import { describe, expect, test } from 'bun:test';
import {
  COLOUR_NAMES,
  captionOfScene,
  drawScene,
  emptyScene,
  RELATIONS,
  type Scene,
  SHAPES,
  sceneAt,
} from '../../../src/data/shapes.ts';
import { judgeScene, learnsShapes } from '../../../src/eval/scene-fidelity.ts';
import { readScene } from '../../../src/eval/scene-reader.ts';
import { resolveRecipe } from '../../../src/recipe/resolve.ts';

interface Damage {
  /** Standard deviation of noise, of 255. */
  readonly noise?: number;
  /** Passes of the kernel (1 2 1) / 4 both ways. */
  readonly blur?: number;
}

function picture(scene: Scene, size: number, { noise = 0, blur = 0 }: Damage = {}) {
  let planes = new Float32Array(3 * size * size);
  drawScene(scene, size, planes, 0);
  for (let i = 0; i < 2 * blur; i++) planes = blurred(planes, size, i % 2 === 0 ? 1 : size);
  let state = 1;
  const uniform = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state + 0.5) / 2 ** 32;
  };
  const normal = () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  const data = new Uint8ClampedArray(3 * size * size);
  for (let i = 0; i < data.length; i++) {
    data[i] = (planes[(i % 3) * size * size + Math.floor(i / 3)]! + 1) * 127.5 + noise * normal();
  }
  return { width: size, data };
}

function blurred(planes: Float32Array, size: number, step: number): Float32Array<ArrayBuffer> {
  return Float32Array.from(planes, (v, i) => {
    const place = Math.floor(i / step) % size;
    const before = place > 0 ? planes[i - step]! : v;
    return (before + 2 * v + (place < size - 1 ? planes[i + step]! : v)) / 4;
  });
}

/** What is read of a picture beside what was drawn, where they differ. */
function misread(scene: Scene, size: number, damage?: Damage): string[] {
  const read = readScene(picture(scene, size, damage))?.scene ?? null;
  const { colour, shape, relation } = judgeScene(scene, read);
  if (colour && shape && relation) return [];
  return [`${captionOfScene(scene)}: ${read && captionOfScene(read)}`];
}

const NOISE = { noise: 12 };

describe('reading', () => {
  test('every shape in every colour, alone, with the noise of a sample', () => {
    const wrong = SHAPES.flatMap((_, shape) =>
      COLOUR_NAMES.flatMap((_, colour) => {
        const scene = { ...emptyScene(), shape, colour, x: 0.46, y: 0.55, size: 0.3 };
        return misread(scene, 32, colour % 3 === 0 ? NOISE : {});
      }),
    );
    expect(wrong).toEqual([]);
  });

  test('two shapes in every relation, of several sizes', () => {
    const scenes = Array.from({ length: 36 }, (_, i) => sceneAt(7, i, emptyScene()));
    expect(new Set(scenes.map(({ relation }) => relation)).size).toBe(RELATIONS.length);
    const sizes = [32, 40, 64, 96];
    const wrong = scenes.flatMap((scene, i) => misread(scene, sizes[i % 4]!, i % 3 === 0 ? NOISE : {}));
    expect(wrong).toEqual([]);
  });

  test('strong noise and blur cost little', () => {
    const count = (damage: Damage) =>
      Array.from({ length: 4 }, (_, i) => misread(sceneAt(8, i, emptyScene()), 32, damage)).flat().length;
    expect(count({ noise: 40 })).toBe(0);
    expect(count({ blur: 1 })).toBe(0);
  });

  test('of nothing is nothing', () => {
    const white = { width: 32, data: new Uint8Array(32 * 32 * 3).fill(255) };
    expect(readScene(white)).toBeNull();
  });

  test('gives places and sizes', () => {
    const drawn = sceneAt(9, 4, emptyScene());
    const read = readScene(picture(drawn, 64));
    for (const key of ['x', 'y', 'size'] as const) {
      expect(Math.abs(read!.scene[key] - drawn[key])).toBeLessThan(0.01);
    }
    expect(read!.error).toBeLessThan(50);
  });
});

describe('a verdict', () => {
  const scene = (relation: string, ...things: [number, number][]): Scene => {
    const [[shape, colour] = [0, 0], [shape2, colour2] = [0, 0]] = things;
    return {
      ...emptyScene(),
      relation: RELATIONS.indexOf(relation as never),
      shape,
      colour,
      shape2,
      colour2,
    };
  };
  const asked = scene('left of', [0, 1], [2, 3]);
  const verdict = (colour: boolean, shape: boolean, relation: boolean) => ({ colour, shape, relation });

  test('takes the shapes in either order, and the relation with them', () => {
    expect(judgeScene(asked, asked)).toEqual(verdict(true, true, true));
    expect(judgeScene(asked, scene('right of', [2, 3], [0, 1]))).toEqual(verdict(true, true, true));
    expect(judgeScene(asked, scene('left of', [2, 3], [0, 1]))).toEqual(verdict(true, true, false));
    const inside = scene('inside', [0, 1], [3, 3]);
    expect(judgeScene(inside, scene('inside', [3, 3], [0, 1]))).toEqual(verdict(true, true, false));
  });

  test('wants every colour and every shape', () => {
    expect(judgeScene(asked, scene('left of', [0, 1], [5, 3]))).toEqual(verdict(true, false, true));
    expect(judgeScene(asked, scene('left of', [0, 9], [2, 3]))).toEqual(verdict(false, true, true));
    // Colours on the wrong shapes: the colours are there, not the shapes under them.
    expect(judgeScene(asked, scene('left of', [0, 3], [2, 1]))).toEqual(verdict(true, false, false));
    expect(judgeScene(asked, scene('alone', [0, 1]))).toEqual(verdict(false, false, false));
    expect(judgeScene(scene('alone', [0, 1]), asked)).toEqual(verdict(true, true, false));
    expect(judgeScene(asked, null)).toEqual(verdict(false, false, false));
  });
});

test('which recipes learn shapes', () => {
  const learns = (source: string) =>
    learnsShapes(
      resolveRecipe({
        file: { name: 't.toml', text: `[model]\npreset = "nano"\n[[data.source]]\n${source}` },
      }).recipe,
    );
  expect(learns('name = "shapes"')).toBe(true);
  expect(learns('name = "shapes"\nweight = 0\n[[data.source]]\nname = "emoji"')).toBe(false);
});
