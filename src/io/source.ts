// Where the bytes of a file come from: an open file read at positions, or memory (a file embedded in the
// executable).

import { closeSync, constants, fstatSync, openSync, readFileSync, readSync } from 'node:fs';
import { basename } from 'node:path';
import { Failure } from './failure.ts';
import { osFailure } from './oserror.ts';

/** Largest single read: the kernel gives at most 2 GiB - 4 KiB in one call. */
const READ_BYTES = 2 ** 30;

/** Bytes at positions. `using source = openSource(path)` closes it. */
export class Source implements Disposable {
  private constructor(
    /** As it stands in messages. */
    readonly path: string,
    readonly size: number,
    private readonly read: (into: Uint8Array, position: number) => number,
    private readonly end: () => void,
  ) {}

  /** Opens a regular file; anything else is a Failure. */
  static open(path: string): Source {
    // Files inside the executable have a path, but no file descriptor.
    if (path.startsWith('/$bunfs/')) return Source.ofBytes(readFileSync(path), basename(path));
    let fd: number | undefined;
    try {
      // Not blocking: a pipe is refused at once, and not when somebody writes to it.
      fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
      return Source.ofDescriptor(fd, path);
    } catch (error) {
      if (fd !== undefined) closeSync(fd);
      throw osFailure(error, path, 'read');
    }
  }

  /** The same for a file that is open; closing this closes it. `name` stands in messages. */
  static ofDescriptor(fd: number, name: string): Source {
    const stat = fstatSync(fd);
    if (!stat.isFile()) {
      const why = stat.isDirectory() ? 'this is a folder, not a file' : 'this is not a regular file';
      throw new Failure({ what: name, why, fix: 'Name a file' });
    }
    let open: number | undefined = fd;
    return new Source(
      name,
      stat.size,
      (into, position) => readSync(fd, into, 0, into.length, position),
      () => {
        if (open !== undefined) closeSync(open);
        open = undefined;
      },
    );
  }

  /** The same for bytes in memory; `name` stands in messages. */
  static ofBytes(bytes: Uint8Array, name: string): Source {
    const read = (into: Uint8Array, position: number) => {
      const part = bytes.subarray(position, position + into.length);
      into.set(part);
      return part.length;
    };
    return new Source(name, bytes.length, read, () => {});
  }

  /** Fills `into` with the bytes from `position` on, all of them; a file that ends before is a Failure. */
  fill(into: Uint8Array, position: number): void {
    for (let at = 0; at < into.length; ) {
      let got: number;
      try {
        got = this.read(into.subarray(at, at + READ_BYTES), position + at);
      } catch (error) {
        throw osFailure(error, this.path, 'read');
      }
      if (got === 0) {
        const fix = 'Copy or download it again';
        throw new Failure({ what: this.path, why: 'the file ends too early', fix });
      }
      at += got;
    }
  }

  close(): void {
    this.end();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
