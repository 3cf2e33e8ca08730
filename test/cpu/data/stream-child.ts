// Reads a stream from a place on and writes what it got, a batch a line, until it is killed or has all:
// stream-child.ts OPTIONS (JSON).
import { appendFileSync } from 'node:fs';
import { ShardStream } from '../../../src/data/stream/stream.ts';
import { arraysFor, itemsOf } from './stream-sets.ts';

const { sets, columns, options, log, first, end, batch } = JSON.parse(process.argv[2]!);
const stream = await ShardStream.open(sets, columns, options);
const { ranks = 1 } = options;
let next = arraysFor(columns, batch);
let coming = stream.fill(next, new Float64Array(batch), first);
for (let place = first; place < end; place += batch * ranks) {
  const here = next;
  await coming;
  next = arraysFor(columns, batch);
  coming = stream.fill(next, new Float64Array(batch), place + batch * ranks);
  appendFileSync(log, `${place} ${itemsOf(here, columns).join(' ')}\n`);
}
await coming;
await stream.close();
