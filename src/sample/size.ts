// Sizes of pictures: written as N or WxH in pixels, what a model can draw, and the positions of its patches.
import type { Backend } from '../backend/backend.ts';
import { Failure } from '../io/failure.ts';
import type { ModelConfig } from '../model/config.ts';
import { type Grid, sinCosPositions } from '../model/positions.ts';
import { readNumbers } from '../plan/runner.ts';
import type { Network } from './network.ts';
import type { LoadedWeights } from './weights.ts';

/** Width and height of a picture in pixels, or of what the network works on. */
export interface Extent {
  readonly width: number;
  readonly height: number;
}

/** What the sizes of a model follow from. */
export interface Canvas {
  readonly model: ModelConfig;
  /** Pixels along each side for one number of the network: 1, or those of the autoencoder. */
  readonly factor: number;
}

/** `256` or `256x128`, width first; undefined for anything else. */
export function parseSize(text: string): Extent | undefined {
  const [, width, height = width] = /^(\d{1,6})(?:x(\d{1,6}))?$/i.exec(text.trim()) ?? [];
  const size = { width: Number(width), height: Number(height) };
  return size.width > 0 && size.height > 0 ? size : undefined;
}

/** The size that a model was trained on. */
export function trainedSize({ model, factor }: Canvas): Extent {
  return { width: model.input_size * factor, height: model.input_size * factor };
}

export function sizeText({ width, height }: Extent): string {
  return `${width}x${height}`;
}

export function sameSize(a: Extent | null | undefined, b: Extent | null | undefined): boolean {
  return a?.width === b?.width && a?.height === b?.height;
}

/** Most patches of a picture, in those of the trained size: memory and time grow faster than they do. */
const MOST_PATCHES = 64;

/** Why a model cannot draw a size, with the nearest that it can; undefined where it can. */
export function sizeFault({ model, factor }: Canvas, size: Extent): string | undefined {
  const unit = model.patch_size * factor;
  const trained = model.input_size / model.patch_size;
  const least = Math.ceil(model.num_experts / model.expert_capacity);
  const [columns, rows] = [size.width / unit, size.height / unit];
  const to = (round: (n: number) => number) =>
    sizeText({ width: Math.max(1, round(columns)) * unit, height: Math.max(1, round(rows)) * unit });
  if (!Number.isInteger(columns) || !Number.isInteger(rows)) {
    const nearest = [...new Set([to(Math.floor), to(Math.ceil)])].join(' and ');
    return `sides are multiples of ${unit} pixels. The nearest are ${nearest}`;
  }
  const patches = columns * rows;
  const limit = trained ** 2 * MOST_PATCHES;
  if (patches > limit) {
    return `that is ${patches} patches, and ${limit} is the most, ${MOST_PATCHES} times those trained on`;
  }
  if (patches < least) {
    return `that is too small: ${patches} patches, and its experts need ${least}`;
  }
  return undefined;
}

/**
 * Positions [rows * columns, dim] of another grid than the trained one, by the reference's rule. A model
 * whose own positions do not follow that rule is a Failure.
 */
export function positionsFor(
  backend: Backend,
  network: Network,
  weights: LoadedWeights,
  grid: Grid,
): Float64Array {
  const { config, posEmbed } = network.dit;
  const { dim, input_size, patch_size, pos_interp_scale } = config;
  const trained = input_size / patch_size;
  const stored = network.parameters.at(posEmbed);
  const { act } = backend.elemBytes;
  const own = readNumbers(backend, weights.weight, stored.base * act, 'act', stored.count);
  const rule = sinCosPositions(dim, trained, pos_interp_scale, trained);
  if (rule.some((value, i) => Math.abs(value - own[i]!) > ROUNDING)) {
    const why = `its positions are not those of pos_interp_scale ${pos_interp_scale}`;
    throw new Failure({ what: '--size', why, fix: 'Draw at the size that the model was trained on' });
  }
  return sinCosPositions(dim, grid, pos_interp_scale, trained);
}

/** Stored positions may have gone through bf16, and the scale was read off them. */
const ROUNDING = 0.02;
