// Child of io-atomic.test.ts: writes the folder RUN/checkpoint over and over, each time with two files that
// hold the same number, and RUN/latest; it is killed at some moment.

import { join } from 'node:path';
import { writeFolderAtomically, writeLatest, writeWholeFile } from '../../../src/io/atomic.ts';

const run = process.argv[2]!;
for (let version = 1; ; version++) {
  writeFolderAtomically(join(run, 'checkpoint'), (folder) => {
    writeWholeFile(join(folder, 'a'), new Uint32Array(10_000).fill(version));
    writeWholeFile(join(folder, 'b'), new Uint32Array(10_000).fill(version));
  });
  writeLatest(run, `checkpoint-${version}`);
}
