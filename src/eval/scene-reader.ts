// Reads a picture of drawn shapes: which shapes of which colours, and how they stand to each other. Scenes
// are fitted to it by least squares, shape by shape, and the one that leaves the least is what it shows. It
// is deterministic and knows nothing of what was asked for.
import { COLOUR_VALUES, coverOf, emptyScene, RELATIONS, type Scene, SHAPES } from '../data/shapes.ts';

/** A scene as it was read; positions and sizes as fractions of the picture's side. */
export interface Reading {
  readonly scene: Scene;
  /** Mean squared error over pixels, summed over channels of 0..255, that the scene leaves. */
  readonly error: number;
}

/** Larger pictures are averaged over blocks, as long as this side is left. */
const LEAST_SIDE = 32;
/**
 * Pixels over which an edge goes from 0 to 1: as drawn; and blurred, which is tried where `error` is large.
 */
const EDGES = [1, 3];
const LARGE_ERROR = 100;
/** Colours that are taken into account, the most frequent ones, and the share of pixels that each needs. */
const MOST_COLOURS = 4;
const LEAST_SHARE = 0.015;
/** Radii that are looked for; scenes have 0.16 to 0.44. */
const RADII = { least: 0.1, most: 0.55 };
/**
 * What a second shape has to explain, in units of `error`: a third of the least that one can, an orange
 * star in the middle of a yellow shape. More than edges mixed of two colours make up.
 */
const LEAST_GAIN = 60;
/** Middles nearer than this lie inside each other: 0 in scenes, and 0.49 or more of shapes side by side. */
const INSIDE = 0.2;

const WHITE: Colour = [255, 255, 255];
type Colour = readonly [number, number, number];

/** A square picture [size, size, 3], values 0..255, and how wide its edges are taken to be. */
interface Pixels {
  readonly size: number;
  readonly data: ArrayLike<number>;
  readonly edge: number;
}

interface Fit {
  readonly shape: number;
  readonly colour: number;
  readonly x: number;
  readonly y: number;
  readonly radius: number;
}

/** RGB of as many rows as columns. */
interface Picture {
  readonly width: number;
  /** [width, width, 3], 0..255 */
  readonly data: ArrayLike<number>;
}

/** What a square picture shows; null where nothing in it is large enough to be a shape. */
export function readScene(picture: Picture): Reading | null {
  const pixels = shrunk(picture);
  let best: Reading | null = null;
  for (const edge of EDGES) {
    if (best && best.error < LARGE_ERROR) break;
    const reading = readWith({ ...pixels, edge });
    if (!best || (reading && reading.error < best.error)) best = reading;
  }
  return best;
}

function readWith(pixels: Pixels): Reading | null {
  const colours = frequentColours(pixels);
  let best: Reading | null = null;
  const offer = (fits: readonly Fit[], handicap: number) => {
    const error = errorOf(pixels, fits);
    if (best === null || error + handicap < best.error) best = { scene: sceneOf(fits), error };
  };
  for (const colour of colours) {
    const fit = fitShape(pixels, colour, labelsOf(pixels, [colour]));
    if (fit) offer([fit], 0);
  }
  for (const [i, one] of colours.entries()) {
    for (const other of colours.slice(i + 1)) {
      if (best && (best as Reading).error < LEAST_GAIN) return best;
      const labels = labelsOf(pixels, [one, other]);
      const a = fitShape(pixels, one, labels);
      const b = fitShape(pixels, other, labels);
      if (!a || !b) continue;
      offer([a, b], LEAST_GAIN);
      if (apart(a, b) > 2 * INSIDE) continue;
      // Of one that lies behind, the other one's pixels say nothing.
      const behindA = fitShape(pixels, other, labels, one);
      if (behindA) offer([behindA, a], LEAST_GAIN);
      const behindB = fitShape(pixels, one, labels, other);
      if (behindB) offer([behindB, b], LEAST_GAIN);
    }
  }
  return best;
}

/** Fits are drawn in their order: of two that share a middle the first lies behind. */
function sceneOf([behind, front]: readonly Fit[]): Scene {
  const scene = emptyScene();
  const first = front ?? behind!;
  Object.assign(scene, {
    shape: first.shape,
    colour: first.colour,
    x: first.x,
    y: first.y,
    size: first.radius,
  });
  if (!front || !behind) return scene;
  scene.shape2 = behind.shape;
  scene.colour2 = behind.colour;
  [scene.x2, scene.y2, scene.size2] = [behind.x, behind.y, behind.radius];
  scene.relation = RELATIONS.indexOf(relationOf(front, behind));
  return scene;
}

type Place = Pick<Fit, 'x' | 'y'>;

/** How the first stands to the second. */
function relationOf(first: Place, second: Place): (typeof RELATIONS)[number] {
  if (apart(first, second) < INSIDE) return 'inside';
  const [dx, dy] = [first.x - second.x, first.y - second.y];
  if (Math.abs(dx) > Math.abs(dy)) return dx < 0 ? 'left of' : 'right of';
  return dy < 0 ? 'above' : 'below';
}

const apart = (a: Place, b: Place) => Math.hypot(a.x - b.x, a.y - b.y);

function errorOf({ size, data, edge }: Pixels, fits: readonly Fit[]): number {
  let sum = 0;
  for (let row = 0, at = 0; row < size; row++) {
    for (let column = 0; column < size; column++, at += 3) {
      let [r, g, b] = WHITE as [number, number, number];
      for (const { shape, colour, x, y, radius } of fits) {
        const cover = coverOf(shape, (column + 0.5) / size - x, (row + 0.5) / size - y, radius, size / edge);
        const value = COLOUR_VALUES[colour]!;
        r += (value[0] - r) * cover;
        g += (value[1] - g) * cover;
        b += (value[2] - b) * cover;
      }
      sum += (data[at]! - r) ** 2 + (data[at + 1]! - g) ** 2 + (data[at + 2]! - b) ** 2;
    }
  }
  return sum / (size * size);
}

/** Of every pixel the nearest of the colours, by index; -1 where white is nearer. */
function labelsOf({ size, data }: Pixels, colours: readonly number[]): Int8Array {
  return Int8Array.from({ length: size * size }, (_, i) => {
    let [label, least] = [-1, distanceTo(WHITE, data, 3 * i)];
    for (const colour of colours) {
      const distance = distanceTo(COLOUR_VALUES[colour]!, data, 3 * i);
      if (distance < least) [label, least] = [colour, distance];
    }
    return label;
  });
}

function distanceTo(colour: Colour, data: ArrayLike<number>, at: number): number {
  return (data[at]! - colour[0]) ** 2 + (data[at + 1]! - colour[1]) ** 2 + (data[at + 2]! - colour[2]) ** 2;
}

function frequentColours(pixels: Pixels): number[] {
  const all = COLOUR_VALUES.map((_, i) => i);
  const counts = all.map(() => 0);
  for (const label of labelsOf(pixels, all)) if (label >= 0) counts[label]! += 1;
  const needed = LEAST_SHARE * pixels.size ** 2;
  return all
    .filter((i) => counts[i]! >= needed)
    .sort((a, b) => counts[b]! - counts[a]!)
    .slice(0, MOST_COLOURS);
}

/**
 * The shape of a colour that explains the picture best, before white and before the other labels as flat
 * colours; pixels labelled `ignored` do not count. Null where no pixel has the colour.
 */
function fitShape(pixels: Pixels, colour: number, labels: Int8Array, ignored?: number): Fit | null {
  const { size, data, edge } = pixels;
  const value = COLOUR_VALUES[colour]!;
  // The error of a pixel that is covered by a share s is quadratic in s: q s^2 + l s + what it is bare.
  const linear = new Float64Array(size * size);
  const quadratic = new Float64Array(size * size);
  for (const [i, label] of labels.entries()) {
    if (label === ignored) continue;
    const base = label === -1 || label === colour ? WHITE : COLOUR_VALUES[label]!;
    for (let c = 0; c < 3; c++) {
      const toward = value[c]! - base[c]!;
      linear[i]! -= 2 * toward * (data[3 * i + c]! - base[c]!);
      quadratic[i]! += toward * toward;
    }
  }
  const cost = (shape: number, cx: number, cy: number, radius: number): number => {
    const reach = radius * size + edge;
    const [left, right] = [Math.max(0, Math.floor(cx * size - reach)), Math.min(size, cx * size + reach)];
    const [top, bottom] = [Math.max(0, Math.floor(cy * size - reach)), Math.min(size, cy * size + reach)];
    let sum = 0;
    for (let row = top; row < bottom; row++) {
      for (let column = left; column < right; column++) {
        const s = coverOf(shape, (column + 0.5) / size - cx, (row + 0.5) / size - cy, radius, size / edge);
        const i = row * size + column;
        if (s > 0) sum += s * (linear[i]! + s * quadratic[i]!);
      }
    }
    return sum;
  };
  const start = middleOf(labels, colour, size);
  if (!start) return null;
  const { x, y, area } = start;
  const found = SHAPES.map((_, shape) => {
    const radius = within(Math.sqrt(area / AREAS[shape]!));
    return search(cost, { shape, colour, x, y, radius }, { from: 0.06, to: 0.01 });
  });
  found.sort((a, b) => a.cost - b.cost);
  const fine = found.slice(0, 3).map(({ fit }) => search(cost, fit, { from: 0.01, to: 0.002 }));
  return fine.reduce((a, b) => (b.cost < a.cost ? b : a)).fit;
}

/** Middle and area of the pixels with a label, of those among their like where there are such. */
function middleOf(labels: Int8Array, label: number, size: number): (Place & { area: number }) | null {
  const all = [...labels.keys()].filter((i) => labels[i] === label);
  const inner = all.filter((i) => [-size, -1, 1, size].every((by) => labels[i + by] === label));
  const of = inner.length > 0 ? inner : all;
  if (of.length === 0) return null;
  const mean = (value: (i: number) => number) =>
    of.reduce((sum, i) => sum + value(i) + 0.5, 0) / of.length / size;
  return { x: mean((i) => i % size), y: mean((i) => Math.floor(i / size)), area: all.length / size ** 2 };
}

const within = (radius: number) => Math.min(RADII.most, Math.max(RADII.least, radius));

type Cost = (shape: number, x: number, y: number, radius: number) => number;

/** Pattern search: steps in place and size that shrink where none of them helps. */
function search(
  cost: Cost,
  start: Fit,
  { from, to }: { from: number; to: number },
): { fit: Fit; cost: number } {
  let fit = start;
  let least = cost(fit.shape, fit.x, fit.y, fit.radius);
  for (let step = from; step >= to; ) {
    const { x, y, radius } = fit;
    const moves = [
      ...[-step, step].map((by) => ({ ...fit, x: x + by })),
      ...[-step, step].map((by) => ({ ...fit, y: y + by })),
      ...[-step, step].map((by) => ({ ...fit, radius: within(radius + by) })),
    ];
    let moved = false;
    for (const move of moves) {
      const value = cost(move.shape, move.x, move.y, move.radius);
      if (value < least) [fit, least, moved] = [move, value, true];
    }
    if (!moved) step /= 2;
  }
  return { fit, cost: least };
}

/** Areas of shapes of radius 1. */
const AREAS = SHAPES.map((_, shape) => {
  const [n, half] = [100, 1.2];
  let sum = 0;
  for (let i = 0; i < n * n; i++) {
    const [x, y] = [i % n, Math.floor(i / n)].map((v) => ((v + 0.5) / n) * 2 * half - half);
    sum += coverOf(shape, x!, y!, 1, n / (2 * half));
  }
  return (sum * (2 * half) ** 2) / (n * n);
});

function shrunk({ width: size, data }: Picture): Omit<Pixels, 'edge'> {
  const block = Math.floor(size / LEAST_SIDE);
  if (block <= 1) return { size, data };
  const small = Math.floor(size / block);
  const out = new Float64Array(small * small * 3);
  for (let i = 0; i < out.length; i++) {
    const [c, column, row] = [i % 3, Math.floor(i / 3) % small, Math.floor(i / 3 / small)];
    let sum = 0;
    for (let k = 0; k < block * block; k++) {
      const at = (row * block + Math.floor(k / block)) * size + column * block + (k % block);
      sum += data[3 * at + c]!;
    }
    out[i] = sum / (block * block);
  }
  return { size: small, data: out };
}
