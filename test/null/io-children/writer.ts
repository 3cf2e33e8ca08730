// Child of io-lines.test.ts: writes COUNT numbered lines to standard output, non-blocking if asked, and tells
// on standard error how it ended.

import { constants, openSync } from 'node:fs';
import { Writer } from '../../../src/io/lines.ts';

const [count, mode] = process.argv.slice(2);
const fd = mode === 'nonblock' ? openSync('/proc/self/fd/1', constants.O_WRONLY | constants.O_NONBLOCK) : 1;
const writer = new Writer(fd);
let lines = 0;
while (lines < Number(count) && writer.line(`${lines} ${'x'.repeat(100)}`)) lines++;
new Writer(2).line(writer.closed ? 'closed' : `wrote ${lines}`);
process.exit(0);
