// What was downloaded first under a name, noted for ever after: its commit and checksum. A later download
// takes the same commit, and other bytes are refused.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { makeFolder, writeWholeFile } from '../atomic.ts';
import { Failure } from '../failure.ts';
import { takeLock } from './lock.ts';
import { osCode, osFailure } from '../oserror.ts';

export interface Pin {
  /** Commit of the repository; null for a plain address. */
  readonly revision: string | null;
  readonly sha256: string;
  readonly bytes: number;
}

/** The notes in `folder`/pins.json. */
export class Pins {
  readonly path: string;

  constructor(private readonly folder: string) {
    this.path = join(folder, 'pins.json');
  }

  get(key: string): Pin | undefined {
    const files = this.#read();
    return Object.hasOwn(files, key) ? files[key] : undefined;
  }

  async set(key: string, pin: Pin): Promise<void> {
    makeFolder(this.folder);
    const lock = await takeLock(join(this.folder, 'pins.lock'));
    try {
      writeWholeFile(
        this.path,
        `${JSON.stringify({ version: 1, files: { ...this.#read(), [key]: pin } }, null, 2)}\n`,
      );
    } finally {
      lock.release();
    }
  }

  #read(): Record<string, Pin> {
    let text: string;
    try {
      text = readFileSync(this.path, 'utf8');
    } catch (error) {
      if (osCode(error) === 'ENOENT' || osCode(error) === 'ENOTDIR') return {};
      throw osFailure(error, this.path, 'read');
    }
    const files = filesIn(text);
    if (files) return files;
    throw new Failure({
      what: this.path,
      why: 'not the notes of this version of microdiff',
      fix: 'Remove it: what is downloaded next is noted anew',
    });
  }
}

function filesIn(text: string): Record<string, Pin> | undefined {
  try {
    const { version, files } = JSON.parse(text);
    const isPin = (pin: Partial<Pin>) =>
      /^[0-9a-f]{64}$/.test(pin.sha256 ?? '') && Number.isSafeInteger(pin.bytes);
    return version === 1 && Object.values<Partial<Pin>>(files).every(isPin) ? files : undefined;
  } catch {
    return undefined;
  }
}
