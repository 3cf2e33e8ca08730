// The named parts of the emoji: 'subset', which the shipped model learns, and its first 128, 'quickstart'.
//
// How subset.json was chosen. Candidates: names of animals, plants, food, places, vehicles, activities and
// objects, and a few faces, hearts, people, signs and flags; without clock faces, moon phases, buttons,
// arrows, hands, near copies of other names (oncoming cars, sheets of paper, mail boxes) and held-out pairs.
// Then, while more than 1,030 pairs are left: of the two pictures that lie closest (mean squared error at 32
// px; three times that between styles of one name) the one whose next neighbour is nearer goes, with its
// whole name, or alone if both are one name; a name left with one style goes too. About fifty well-known
// names gave way only to one another and kept all their styles; the first 128 pairs are those of them whose
// pictures differ most.
import { Failure } from '../../io/failure.ts';
import type { EmojiSet } from './set.ts';
import list from './subset.json';

/** Names and how many pairs of the list they take. */
const PARTS: Readonly<Record<string, number>> = { subset: Number.POSITIVE_INFINITY, quickstart: 128 };

/**
 * Indices in `set` of a named part, in the order of the committed list.
 * Throws when there is no such part or the set lacks a pair of it.
 */
export function subsetOf(set: EmojiSet, name: string): number[] {
  if (!Object.hasOwn(PARTS, name)) {
    const fix = `Use one of: ${Object.keys(PARTS).join(', ')}`;
    throw new Failure({ what: `emoji subset ${name}`, why: 'no such part', fix, code: 2 });
  }
  const indices: number[] = [];
  for (const [thing, styles] of Object.entries(list.subset)) {
    for (const style of styles) {
      const index = set.find(thing, style);
      if (index < 0) {
        const fix = 'Build the pack again from the pinned packages';
        throw new Failure({ what: `emoji list ${name}`, why: `the pack has no ${style} ${thing}`, fix });
      }
      indices.push(index);
    }
  }
  return indices.slice(0, PARTS[name]);
}

/**
 * Held-out pairs whose names stand in `trained` (indices) in other styles: what a model trained on those may
 * be asked for.
 */
export function heldOutBeside(set: EmojiSet, trained: readonly number[]): number[] {
  const names = new Set(trained.map((i) => set.pairs[i]!.name));
  return set.pairs.flatMap((pair, i) => (pair.heldOut && names.has(pair.name) ? [i] : []));
}
