// Which (name, style) pairs are never trained on: a fixed 5 %, to see whether style and thing combine.
import { fnv1a } from '../../text/fnv.ts';

export const HELD_OUT_SHARE = 0.05;

/** Seeds of the two hashes: the first that leave the best-known things ("red apple", "rocket") whole. */
const NAME_SEED = 48;
const STYLE_SEED = 2;

/**
 * One flag a pair. Names that come in at least two styles are ordered by the hash of the name; the first of
 * them lose one style each, chosen by a second hash, until 5 % of all pairs are held out. So every name that
 * is held out in one style is trained in another.
 */
export function holdOut(pairs: readonly { readonly name: string; readonly style: string }[]): boolean[] {
  const places = new Map<string, number[]>();
  pairs.forEach(({ name }, i) => {
    const list = places.get(name);
    if (list === undefined) places.set(name, [i]);
    else list.push(i);
  });
  const names = [...places.keys()].filter((name) => places.get(name)!.length > 1);
  names.sort((a, b) => fnv1a(a, NAME_SEED) - fnv1a(b, NAME_SEED) || (a < b ? -1 : 1));
  const held = new Array<boolean>(pairs.length).fill(false);
  for (const name of names.slice(0, Math.round(pairs.length * HELD_OUT_SHARE))) {
    const styles = places.get(name)!;
    held[styles[fnv1a(name, STYLE_SEED) % styles.length]!] = true;
  }
  return held;
}
