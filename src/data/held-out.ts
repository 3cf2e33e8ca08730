// Samples that are held out of a source: which ones, and the source without them.
import { EXIT, Failure } from '../io/failure.ts';
import type { Source } from './source.ts';

/**
 * A source in two: `count` of its items, spread evenly, and all others. Throws a Failure where too few are
 * left to train on.
 */
export function splitSource(source: Source, count: number): { readonly rest: Source; readonly held: Source } {
  if (count >= source.count) throw tooMany(source.name, count, source.count);
  const at = (k: number) => Math.floor(((k + 0.5) * source.count) / count);
  const chosen = Float64Array.from({ length: count }, (_, k) => at(k));
  return {
    held: picked(source, count, (k) => chosen[k]!),
    rest: picked(source, source.count - count, (item) => item + heldUpTo(chosen, item)),
  };
}

export function tooMany(what: string, count: number, all: number): Failure {
  const why = `${count} samples cannot be held out of ${all} of ${what}`;
  return new Failure({ what: 'data.validation', why, fix: 'Hold out fewer', code: EXIT.usage });
}

/** How many held-out items stand before the item that is number `item` of the others. */
function heldUpTo(chosen: Float64Array, item: number): number {
  let [low, high] = [0, chosen.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (chosen[middle]! - middle > item) high = middle;
    else low = middle + 1;
  }
  return low;
}

function picked(source: Source, count: number, itemOf: (item: number) => number): Source {
  return {
    name: source.name,
    count,
    picture: (item, out, offset) => source.picture(itemOf(item), out, offset),
    caption: (item, captionIndex) => source.caption(itemOf(item), captionIndex),
    tokens: (item, captionIndex, out, offset) => source.tokens(itemOf(item), captionIndex, out, offset),
  };
}

/** The first `count` items of a source, or all of it where it has fewer. */
export function firstOf(source: Source, count: number): Source {
  return picked(source, Math.min(count, source.count), (item) => item);
}
