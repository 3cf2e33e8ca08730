// Pictures with exact labels, drawn on the fly: "a red circle left of a blue square".
// A scene is a function of (seed, index). Shapes are signed distances (formulas: I. Quilez, "2D distance
// functions"); a pixel's coverage is half a pixel of ramp at the edge. Parts: scenes, captions, drawing.
import { hash3 } from './hash.ts';

export const SHAPES = [
  'circle',
  'square',
  'triangle',
  'diamond',
  'star',
  'ring',
  'cross',
  'hexagon',
] as const;
export const COLOURS = {
  red: [220, 38, 38],
  orange: [249, 128, 22],
  yellow: [250, 204, 21],
  green: [34, 160, 70],
  blue: [37, 99, 235],
  purple: [126, 58, 200],
  pink: [244, 114, 182],
  brown: [130, 80, 40],
  black: [20, 20, 20],
  gray: [150, 150, 150],
} as const;
/** How the first shape stands to the second; 'alone' has no second. */
export const RELATIONS = ['alone', 'left of', 'right of', 'above', 'below', 'inside'] as const;

export const COLOUR_NAMES = Object.keys(COLOURS) as (keyof typeof COLOURS)[];
export const COLOUR_VALUES = COLOUR_NAMES.map((name) => COLOURS[name]);
/** Shapes that have room inside, by index: circle, square, diamond, hexagon. */
const OUTER = [0, 1, 3, 7];

/** Scenes that are told apart: an epoch of this source. */
export const SCENE_COUNT = 1 << 24;

/** Indices into the tables above; positions and sizes as fractions of the picture's side, y down. */
export interface Scene {
  relation: number;
  shape: number;
  colour: number;
  x: number;
  y: number;
  size: number;
  /** The second shape; meaningless when `relation` is 0. */
  shape2: number;
  colour2: number;
  x2: number;
  y2: number;
  size2: number;
}

export function emptyScene(): Scene {
  return {
    ...{ relation: 0, shape: 0, colour: 0, x: 0, y: 0, size: 0 },
    ...{ shape2: 0, colour2: 0, x2: 0, y2: 0, size2: 0 },
  };
}

/** Writes scene `index` (0..2^53-1) of `seed` into `scene` and returns it. The two colours always differ. */
export function sceneAt(seed: number, index: number, scene: Scene): Scene {
  scene.relation = pick(seed, index, 0, RELATIONS.length);
  scene.shape = pick(seed, index, 1, SHAPES.length);
  scene.colour = pick(seed, index, 2, COLOUR_NAMES.length);
  scene.shape2 = pick(seed, index, 3, SHAPES.length);
  scene.colour2 = (scene.colour + 1 + pick(seed, index, 4, COLOUR_NAMES.length - 1)) % COLOUR_NAMES.length;
  scene.x = scene.y = scene.x2 = scene.y2 = 0.5;
  const relation = RELATIONS[scene.relation]!;
  if (relation === 'alone') {
    scene.size = 0.33 + jitter(seed, index, 5, 0.07);
    scene.x += jitter(seed, index, 6, 0.08);
    scene.y += jitter(seed, index, 7, 0.08);
  } else if (relation === 'inside') {
    scene.shape2 = OUTER[pick(seed, index, 3, OUTER.length)]!;
    scene.size2 = 0.42 + jitter(seed, index, 5, 0.02);
    scene.size = 0.18 + jitter(seed, index, 6, 0.02);
    scene.x = scene.x2 += jitter(seed, index, 7, 0.04);
    scene.y = scene.y2 += jitter(seed, index, 8, 0.04);
  } else {
    scene.size = 0.2 + jitter(seed, index, 5, 0.025);
    scene.size2 = 0.2 + jitter(seed, index, 6, 0.025);
    const apart = 0.26 + jitter(seed, index, 7, 0.015); // more than half the two sizes: shapes never touch
    const across = relation === 'left of' || relation === 'right of';
    const sign = relation === 'left of' || relation === 'above' ? -1 : 1;
    const drift = jitter(seed, index, 8, 0.12);
    scene.x += across ? sign * apart : drift;
    scene.x2 += across ? -sign * apart : drift;
    scene.y += across ? drift : sign * apart;
    scene.y2 += across ? drift : -sign * apart;
  }
  return scene;
}

/** A number 0..n-1; `stream` tells the choices of one scene apart. */
function pick(seed: number, index: number, stream: number, n: number): number {
  return hash3(seed, index, stream) % n;
}

/** A number in [-range, range]. */
function jitter(seed: number, index: number, stream: number, range: number): number {
  return ((hash3(seed, index, stream) / 0xffffffff) * 2 - 1) * range;
}

/** The exact caption: "a red circle left of a blue square". */
export function captionOfScene(scene: Scene): string {
  const first = withArticle(scene.colour, scene.shape);
  if (scene.relation === 0) return first;
  return `${first} ${RELATIONS[scene.relation]} ${withArticle(scene.colour2, scene.shape2)}`;
}

function withArticle(colour: number, shape: number): string {
  const name = COLOUR_NAMES[colour]!;
  return `${name === 'orange' ? 'an' : 'a'} ${name} ${SHAPES[shape]}`;
}

/**
 * Draws a scene on white into planes [3, size, size] of `out` at `offset`, values in [-1, 1].
 * The second shape is drawn first, so that one that is inside it shows.
 */
export function drawScene(scene: Scene, size: number, out: Float32Array, offset: number): void {
  out.fill(1, offset, offset + 3 * size * size);
  if (scene.relation !== 0) {
    drawShape(scene.shape2, scene.colour2, scene.x2, scene.y2, scene.size2, size, out, offset);
  }
  drawShape(scene.shape, scene.colour, scene.x, scene.y, scene.size, size, out, offset);
}

function drawShape(
  shape: number,
  colour: number,
  x: number,
  y: number,
  radius: number,
  size: number,
  out: Float32Array,
  offset: number,
): void {
  const value = COLOUR_VALUES[colour]!;
  const plane = size * size;
  const reach = radius * size + 1; // no shape goes further from its middle than its radius
  const left = Math.max(0, Math.floor(x * size - reach));
  const right = Math.min(size, Math.ceil(x * size + reach));
  const top = Math.max(0, Math.floor(y * size - reach));
  const bottom = Math.min(size, Math.ceil(y * size + reach));
  for (let row = top; row < bottom; row++) {
    for (let column = left; column < right; column++) {
      const cover = coverOf(shape, (column + 0.5) / size - x, (row + 0.5) / size - y, radius, size);
      if (cover === 0) continue;
      const at = offset + row * size + column;
      for (let c = 0; c < 3; c++) {
        const target = value[c]! / 127.5 - 1;
        out[at + c * plane] = out[at + c * plane]! * (1 - cover) + target * cover;
      }
    }
  }
}

/**
 * How much of a pixel, whose middle lies (dx, dy) from that of a shape, the shape covers. `scale`: pixels
 * in 1;
 * fewer make softer edges.
 */
export function coverOf(shape: number, dx: number, dy: number, radius: number, scale: number): number {
  const distance = DISTANCES[shape]!(dx / radius, dy / radius);
  return Math.min(1, Math.max(0, 0.5 - distance * radius * scale));
}

const SIN60 = Math.sqrt(3) / 2;
const STAR_INNER = 0.45;

/** By shape: signed distance of (x, y) from the edge of a shape of radius 1 about 0; negative inside. */
const DISTANCES: readonly ((x: number, y: number) => number)[] = [
  (x, y) => length(x, y) - 1,
  (x, y) => box(Math.abs(x), Math.abs(y), 0.82, 0.82),
  (x, y) => Math.max((Math.abs(x) * 1.65 - (y + 0.95) * 0.95) / length(1.65, 0.95), y - 0.7),
  (x, y) => (Math.abs(x) + Math.abs(y) - 1) * Math.SQRT1_2,
  (x, y) => star(Math.abs(x), y),
  (x, y) => Math.abs(length(x, y) - 0.75) - 0.25,
  (x, y) => Math.min(box(Math.abs(x), Math.abs(y), 0.95, 0.3), box(Math.abs(x), Math.abs(y), 0.3, 0.95)),
  (x, y) => Math.max(Math.abs(x) * SIN60 + Math.abs(y) * 0.5, Math.abs(y)) - SIN60,
];

function length(x: number, y: number): number {
  return Math.sqrt(x * x + y * y); // several times faster here than Math.hypot
}

function box(ax: number, ay: number, width: number, height: number): number {
  const dx = ax - width;
  const dy = ay - height;
  return length(Math.max(dx, 0), Math.max(dy, 0)) + Math.min(Math.max(dx, dy), 0);
}

const STAR_TURN = (2 * Math.PI) / 5;
/** Edge of half a point: from the tip (1, 0) to the inner corner. */
const STAR_X = STAR_INNER * Math.cos(STAR_TURN / 2) - 1;
const STAR_Y = STAR_INNER * Math.sin(STAR_TURN / 2);

/** Five points, the first up: every half of a point is folded onto one edge. */
function star(ax: number, y: number): number {
  const angle = Math.atan2(ax, -y);
  const folded = Math.abs(angle - Math.round(angle / STAR_TURN) * STAR_TURN);
  const r = length(ax, y);
  const cross = STAR_X * r * Math.sin(folded) - STAR_Y * (r * Math.cos(folded) - 1);
  return -cross / length(STAR_X, STAR_Y);
}
