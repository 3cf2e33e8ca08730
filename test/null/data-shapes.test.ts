// Drawn shapes: scenes follow seed and index, captions say exactly what is drawn, edges are smooth.
import { describe, expect, test } from 'bun:test';
import {
  captionOfScene,
  COLOUR_NAMES,
  COLOURS,
  drawScene,
  emptyScene,
  RELATIONS,
  type Scene,
  SHAPES,
  sceneAt,
} from '../../src/data/shapes.ts';

const SIZE = 48;

function drawn(scene: Scene, size = SIZE): Float32Array {
  const out = new Float32Array(3 * size * size);
  drawScene(scene, size, out, 0);
  return out;
}

/** Middle and count of the pixels that have exactly a colour, in fractions of the side. */
function middleOf(picture: Float32Array, colour: number): { x: number; y: number; count: number } {
  const value = COLOURS[COLOUR_NAMES[colour]!].map((byte) => Math.fround(byte / 127.5 - 1));
  const area = SIZE * SIZE;
  const found = { x: 0, y: 0, count: 0 };
  for (let i = 0; i < area; i++) {
    if (value.every((v, c) => Math.abs(picture[c * area + i]! - v) < 1e-5)) {
      found.x += ((i % SIZE) + 0.5) / SIZE;
      found.y += (Math.floor(i / SIZE) + 0.5) / SIZE;
      found.count++;
    }
  }
  return { x: found.x / found.count, y: found.y / found.count, count: found.count };
}

const scenes = Array.from({ length: 400 }, (_, i) => sceneAt(3, i, emptyScene()));

describe('scenes', () => {
  test('are a function of seed and index', () => {
    const again = emptyScene();
    for (const i of [399, 0, 7]) expect({ ...sceneAt(3, i, again) }).toEqual(scenes[i]!);
    expect(sceneAt(4, 7, again)).not.toEqual(scenes[7]!);
    expect(sceneAt(3, 2 ** 40 + 7, again)).not.toEqual(scenes[7]!);
    expect(sceneAt(2 ** 40 + 3, 7, again)).not.toEqual(scenes[7]!);
  });

  test('use every shape, colour and relation', () => {
    expect(new Set(scenes.map((s) => s.shape)).size).toBe(SHAPES.length);
    expect(new Set(scenes.map((s) => s.colour)).size).toBe(COLOUR_NAMES.length);
    expect(new Set(scenes.map((s) => s.relation)).size).toBe(RELATIONS.length);
  });

  test('have two colours and stay inside the picture', () => {
    for (const s of scenes) {
      expect(s.colour).not.toBe(s.colour2);
      for (const middle of [s.x, s.y]) {
        expect(middle - s.size).toBeGreaterThanOrEqual(-1e-9);
        expect(middle + s.size).toBeLessThanOrEqual(1 + 1e-9);
      }
    }
  });
});

describe('captions', () => {
  const scene = { ...emptyScene(), shape: 0, colour: 0, shape2: 1, colour2: 4 };

  test.each([
    [0, 'a red circle'],
    [1, 'a red circle left of a blue square'],
    [5, 'a red circle inside a blue square'],
  ])('relation %d is "%s"', (relation, caption) => {
    expect(captionOfScene({ ...scene, relation })).toBe(caption);
  });

  test('put an before a vowel', () => {
    expect(captionOfScene({ ...scene, colour: 1 })).toBe('an orange circle');
  });

  test('say where the shapes are', () => {
    for (const s of scenes) {
      const picture = drawn(s);
      const first = middleOf(picture, s.colour);
      expect(first.count).toBeGreaterThan(10);
      if (s.relation === 0) continue;
      const second = middleOf(picture, s.colour2);
      expect(second.count).toBeGreaterThan(10);
      const [dx, dy] = [first.x - second.x, first.y - second.y];
      const far = 0.3;
      const holds = {
        'left of': dx < -far,
        'right of': dx > far,
        above: dy < -far,
        below: dy > far,
        inside: Math.abs(dx) < 0.06 && Math.abs(dy) < 0.06,
        alone: true,
      }[RELATIONS[s.relation]!];
      expect(`${captionOfScene(s)}: ${holds}`).toBe(`${captionOfScene(s)}: true`);
    }
  });
});

describe('drawing', () => {
  test('a circle covers its area, with smooth edges', () => {
    const scene = { ...emptyScene(), shape: 0, colour: 8, x: 0.5, y: 0.5, size: 0.3 };
    const picture = drawn(scene);
    let covered = 0;
    let partial = 0;
    const dark = COLOURS.black[0] / 127.5 - 1;
    for (let i = 0; i < SIZE * SIZE; i++) {
      const cover = (1 - picture[i]!) / (1 - dark);
      covered += cover;
      if (cover > 0.01 && cover < 0.99) partial++;
    }
    const area = Math.PI * (0.3 * SIZE) ** 2;
    expect(Math.abs(covered / area - 1)).toBeLessThan(0.005);
    expect(partial).toBeGreaterThan(SIZE);
  });

  test.each([8, 31, 32, 97])('fills %d px planes and nothing else', (size) => {
    const area = 3 * size * size;
    const out = new Float32Array(area + 10).fill(7);
    drawScene(scenes[5]!, size, out, 5);
    expect([...out.subarray(0, 5), ...out.subarray(area + 5)]).toEqual(new Array(10).fill(7));
    for (const v of out.subarray(5, area + 5)) expect(Math.abs(v)).toBeLessThanOrEqual(1);
  });
});
