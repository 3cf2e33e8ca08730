// Op: caption words to rows of a trained table, with its gradient.
import { defineOp, need, refuse } from '../op.ts';
import { cols, count, rows, type Tensor } from '../tensor.ts';
import { traceOf } from '../trace.ts';
import { checkIds } from './rows.ts';

/** Columns of the table that one block of the gradient owns. */
const SPAN = 64;

export const lookupWordsOp = defineOp({
  name: 'lookup_words',
  formula: 'y[n, s] = table[ids[n, s, 0]] + table[ids[n, s, 1]] + pos[s]; 0 where ids[n, s, 0] < 0',
  inputs: ['table', 'ids', 'pos?'],
  outputs: ['y'],
  shape: ([t, i, pos]) => {
    const table = need(t, 'lookup_words');
    const ids = need(i, 'lookup_words');
    const [N = 1, S = 1, two] = ids.shape;
    checkIds('lookup_words', ids, N);
    if (two !== 2 || ids.shape.length !== 3) refuse('lookup_words', 'needs two ids a word', table, ids);
    if (table.shape.length !== 2) refuse('lookup_words', 'needs a table [V, C]', table);
    if (pos && (rows(pos) !== S || cols(pos) !== cols(table))) {
      refuse('lookup_words', 'positions do not fit', table, ids, pos);
    }
    return [{ shape: [N, S, cols(table)], elem: 'act' }];
  },
  fields: { pointers: 'act table; i32 ids; act pos y', ints: 'C S ldtable ldpos ldy' },
  launch: (node) => {
    const [t, i, pos = null] = node.inputs;
    const table = need(t, 'lookup_words');
    const ids = need(i, 'lookup_words');
    const y = need(node.outputs[0], 'lookup_words');
    return {
      pointers: [table, ids, pos, y],
      ints: [cols(y), ids.shape[1] ?? 1, table.ld, pos?.ld ?? 0, y.ld],
      blocks: rows(y),
      lanes: cols(y),
    };
  },
  backward: (node, b) => {
    const [table = null, ids = null, pos = null] = node.inputs;
    const dy = b.grad(node.outputs[0] ?? null);
    if (!dy || !table) return;
    b.append(lookupWordsBwd, [ids, dy], [b.sink(table, 'real'), b.sink(pos, 'real')], { V: rows(table) });
  },
  writes: ['set'],
  tolerance: { nmse: 1e-13, why: 'a sum of three' },
  flops: (node) => 2 * count(need(node.outputs[0], 'lookup_words')),
});

/** One block owns columns of all rows of the table, and walks through the words in order. */
export const lookupWordsBwd = defineOp({
  name: 'lookup_words_bwd',
  formula: 'dtable[v] = sum of dy over words with the id v; dpos[s] = sum over n of dy[n, s]',
  inputs: ['ids', 'dy'],
  outputs: ['dtable?', 'dpos?'],
  shape: ([ids, d], { V = 1 }) => {
    const dy = need(d, 'lookup_words_bwd');
    return [
      { shape: [V, cols(dy)], elem: 'real' },
      { shape: [ids?.shape[1] ?? 1, cols(dy)], elem: 'real' },
    ];
  },
  fields: {
    pointers: 'i32 ids; act dy; real dtable dpos',
    ints: 'C N S V span lddy lddtable lddpos add_dtable add_dpos',
  },
  launch: (node) => {
    const ids = need(node.inputs[0], 'lookup_words_bwd');
    const dy = need(node.inputs[1], 'lookup_words_bwd');
    const [dtable = null, dpos = null] = node.outputs;
    const [N = 1, S = 1] = ids.shape;
    return {
      pointers: [ids, dy, dtable, dpos],
      ints: [
        ...[cols(dy), N, S, node.attrs.V ?? 1, SPAN, dy.ld, dtable?.ld ?? 0, dpos?.ld ?? 0],
        ...node.accumulate.slice(0, 2).map((add) => (add ? 1 : 0)),
      ],
      blocks: Math.ceil(cols(dy) / SPAN),
    };
  },
  backward: 'only used for gradients',
  writes: ['either', 'either'],
  tolerance: { nmse: 1e-12, why: 'float32 sums over the uses of a word' },
  flops: (node) => 3 * count(need(node.inputs[1], 'lookup_words_bwd')),
});

/**
 * table [V, C], ids [N, S, 2] i32 below V, pos [S, C] or null -> [N, S, C]. A negative second id adds
 * nothing; where the first id is negative (padding) the whole row is zero.
 */
export function lookupWords(table: Tensor, ids: Tensor, pos: Tensor | null): Tensor {
  return traceOf(table).emit(lookupWordsOp, [table, ids, pos])[0]!;
}
