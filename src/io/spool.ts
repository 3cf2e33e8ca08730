// A stream whose bytes are wanted by position: in a temporary file that has no name any more, so that nothing
// is left of it however the program ends.
import { closeSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Writer } from './lines.ts';
import { osFailure } from './oserror.ts';
import { Source } from './source.ts';

/**
 * All of a stream as a source; `name` is what messages call it. A full disk is a Failure that names TMPDIR.
 */
export async function spool(stream: AsyncIterable<Uint8Array>, name: string): Promise<Source> {
  const place = `temporary copy of ${name} in ${tmpdir()} (TMPDIR)`;
  let fd: number | undefined;
  try {
    const folder = mkdtempSync(join(tmpdir(), 'microdiff-'));
    fd = openSync(join(folder, 'spool'), 'wx+', 0o600);
    rmSync(folder, { recursive: true });
    const writer = new Writer(fd, place);
    for await (const chunk of stream) writer.write(chunk);
    return Source.ofDescriptor(fd, name);
  } catch (error) {
    if (fd !== undefined) closeSync(fd);
    throw osFailure(error, place, 'write');
  }
}
