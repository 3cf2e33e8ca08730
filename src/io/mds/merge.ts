// Several sets below one folder made one: an index over all their shards, written beside them.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeWholeFile } from '../atomic.ts';
import { EXIT, Failure } from '../failure.ts';
import { basenameFault, INDEX_NAME, MdsIndex } from './index.ts';
import { pythonJson } from './python-text.ts';

/**
 * Writes `folder`/index.json over the sets in `parts`, in their order; parts are paths relative to the
 * folder, and may be merged ones themselves. Every index is checked first; no shard is opened or moved.
 * Returns the merged index.
 */
export function mergeIndexes(folder: string, parts: readonly string[]): MdsIndex {
  if (parts.length === 0) {
    const fix = `Name folders that hold an ${INDEX_NAME}`;
    throw new Failure({ what: folder, why: 'there is nothing to merge', fix, code: EXIT.usage });
  }
  const shards = parts.flatMap((part) => {
    const fault = basenameFault(part);
    if (fault)
      throw new Failure({ what: part, why: fault, fix: `Name a folder below ${folder}`, code: EXIT.usage });
    return entriesOf(folder, part);
  });
  const text = pythonJson({ version: 2, shards });
  // What is written is what is read back: a merge that would be refused is not written.
  const merged = MdsIndex.parse(new TextEncoder().encode(text), folder);
  writeWholeFile(join(folder, INDEX_NAME), text);
  return merged;
}

interface File {
  readonly basename: string;
}

/** The entries of a part's index as they stand there, with names relative to the folder above. */
function entriesOf(folder: string, part: string): unknown[] {
  const index = MdsIndex.read(join(folder, part));
  const json: { shards: { raw_data: File; zip_data: File | null }[] } = JSON.parse(
    readFileSync(join(index.folder, INDEX_NAME), 'utf8'),
  );
  const moved = (file: File | null | undefined) => file && { ...file, basename: `${part}/${file.basename}` };
  return json.shards.map((entry) => ({
    ...entry,
    raw_data: moved(entry.raw_data),
    zip_data: moved(entry.zip_data) ?? null,
  }));
}
