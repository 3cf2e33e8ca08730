// Buckets of a flat buffer that a plan adds to: neighbouring elements that are complete long before the plan
// ends, and so can be sent while the rest is computed. When that is, the plan itself says.
import type { Node } from './op.ts';
import { spanOf } from './tensor.ts';

/** Elements [first, first + count) of the buffer; no node behind number `after` writes any of them. */
export interface Bucket {
  readonly first: number;
  readonly count: number;
  readonly after: number;
}

export interface BucketOptions {
  /** The flat buffer: a space of the plan. */
  readonly space: string;
  /** No bucket reaches over a multiple of so many elements. */
  readonly cut: number;
  /** A bucket waits for its neighbours until it has so many elements, or no neighbour that is to come. */
  readonly least: number;
}

/**
 * Buckets in the order in which they are complete; together they are all elements that the nodes write, and
 * what lies between those (padding, which nobody writes).
 */
export function bucketsOf(nodes: readonly Node[], { space, cut, least }: BucketOptions): Bucket[] {
  const pieces = piecesOf(nodes, space, cut);
  const owner = (i: number) => (pieces[i] ? Math.floor(pieces[i].begin / cut) : -1);
  const state = pieces.map((): 'made' | 'complete' | 'sent' => 'made');
  const order = [...pieces.keys()].sort((a, b) => pieces[a]!.last - pieces[b]!.last);
  const buckets: Bucket[] = [];

  /** Sends the run of complete pieces around a piece, if it is long enough or can grow no more. */
  const send = (piece: number, after: number) => {
    const own = (i: number, wanted: string) => owner(i) === owner(piece) && state[i] === wanted;
    let [from, to] = [piece, piece];
    while (own(from - 1, 'complete')) from -= 1;
    while (own(to + 1, 'complete')) to += 1;
    const first = pieces[from]!.begin;
    const count = pieces[to]!.end - first;
    const grows = own(from - 1, 'made') || own(to + 1, 'made');
    if (count < least && grows) return;
    state.fill('sent', from, to + 1);
    buckets.push({ first, count, after });
  };

  for (let done = 0; done < order.length; ) {
    const after = pieces[order[done]!]!.last;
    const begin = done;
    while (done < order.length && pieces[order[done]!]!.last === after) state[order[done++]!] = 'complete';
    for (const piece of order.slice(begin, done)) if (state[piece] === 'complete') send(piece, after);
  }
  return buckets;
}

interface Piece {
  readonly begin: number;
  readonly end: number;
  /** The last node that writes any of it. */
  readonly last: number;
}

/** What nodes write in a space, cut where one write begins or ends, and at the multiples of `cut`. */
function piecesOf(nodes: readonly Node[], space: string, cut: number): Piece[] {
  const writes = nodes.flatMap(({ outputs }, node) =>
    outputs.flatMap((t) => (t?.storage.space === space ? [{ span: spanOf(t), node }] : [])),
  );
  const end = Math.max(0, ...writes.map(({ span }) => span[1]));
  const cuts = Array.from({ length: Math.ceil(end / cut) }, (_, i) => i * cut);
  const marks = [...new Set([...cuts, ...writes.flatMap(({ span }) => span)])].sort((a, b) => a - b);
  const places = new Map(marks.map((mark, i) => [mark, i]));
  const last = new Int32Array(marks.length).fill(-1);
  for (const { span, node } of writes) last.fill(node, places.get(span[0]), places.get(span[1]));
  return marks.flatMap((begin, i) => (last[i]! < 0 ? [] : [{ begin, end: marks[i + 1]!, last: last[i]! }]));
}
