// The quick-start lists: which (name, style) pairs the shipped model and `quickstart` learn.
//
// How subset.json was chosen. Candidates: names of animals, plants, food, places, vehicles, activities and objects,
// and a few faces, hearts, people, signs and flags; without clock faces, moon phases, buttons, arrows, hands, near
// copies of other names (oncoming cars, sheets of paper, mail boxes) and held-out pairs. Then, while more than 1,030
// pairs are left: of the two pictures that lie closest (mean squared error at 32 px; three times that between styles
// of one name) the one whose next neighbour is nearer goes, with its whole name, or alone if both are one name; a
// name left with one style goes too. About fifty well-known names gave way only to one another and kept all their
// styles. Pictures of different names end more than 2,200 apart (of 65,025).
// 'quickstart' is 128 pairs of those well-known names, the ones whose pictures differ most.
import { Failure } from '../../io/failure.ts';
import type { EmojiSet } from './set.ts';
import lists from './subset.json';

export type SubsetName = keyof typeof lists;

/** Indices in `set` of a committed list, in its order. Throws when the set lacks a pair of it. */
export function subsetOf(set: EmojiSet, name: SubsetName): number[] {
  const indices: number[] = [];
  for (const [thing, styles] of Object.entries(lists[name])) {
    for (const style of styles) {
      const index = set.find(thing, style);
      if (index < 0) {
        const fix = 'Build the pack again from the pinned packages';
        throw new Failure({ what: `emoji list ${name}`, why: `the pack has no ${style} ${thing}`, fix });
      }
      indices.push(index);
    }
  }
  return indices;
}

/** Held-out pairs whose names a list has in other styles: what a model trained on that list may be asked for. */
export function heldOutOf(set: EmojiSet, name: SubsetName): number[] {
  const names = new Set(Object.keys(lists[name]));
  return set.pairs.flatMap((pair, i) => (pair.heldOut && names.has(pair.name) ? [i] : []));
}
