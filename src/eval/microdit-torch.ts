// Conformance of the reader of PyTorch files: those that manifest.json names are equal to their expected file
// to the bit, or are refused.
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { Failure } from '../io/failure.ts';
import { openTensors } from '../io/open-tensors.ts';
import { Safetensors } from '../io/safetensors.ts';
import type { TensorFile } from '../io/tensor-file.ts';
import { attempt, Group, type GroupResult, skipped } from './conformance.ts';
import { JsonObject } from './json-file.ts';

/** One group for each torch file that lies in a folder: how many tensors differ, of none. */
export function* checkTorchFiles(dir: string): Generator<GroupResult> {
  const manifest = join(dir, 'manifest.json');
  const listed = existsSync(manifest) ? JsonObject.read(manifest).maybe('torch_files') : null;
  const present = readdirSync(dir).filter((name) => /\.(pt|pth|bin|ckpt)$/.test(name));
  for (const name of present.sort()) {
    const says = listed?.maybe(name);
    if (!says) {
      yield skipped(name, 'manifest.json does not say what is in it');
      continue;
    }
    if (says.get('refuse')) yield* attempt(name, () => [checkRefused(join(dir, name))]);
    else yield* attempt(name, () => [checkEqual(dir, name, says)]);
  }
}

/** Tensors that differ from those of the expected file, are missing or are not expected. */
function checkEqual(dir: string, name: string, says: JsonObject): GroupResult | null {
  const take = says.has('take') ? says.text('take') : undefined;
  const prefix = says.has('prefix') ? says.text('prefix') : '';
  using file = openTensors(join(dir, name), take === undefined ? {} : { take });
  using expected = Safetensors.open(join(dir, says.text('expect')));
  const group = new Group(name, 0);
  const faults: string[] = [];
  const ours = [...file.tensors.keys()].filter((key) => key.startsWith(prefix));
  for (const key of ours) {
    const plain = key.slice(prefix.length);
    if (!expected.tensors.has(plain) || !equal(file, key, expected, plain)) faults.push(key);
  }
  if (says.get('subset') !== true) {
    faults.push(...[...expected.tensors.keys()].filter((key) => !file.tensors.has(prefix + key)));
  }
  if (ours.length === 0) faults.push('nothing was found');
  group.add(faults.length, faults[0] ?? `${ours.length} tensors, bit for bit`);
  return group.result();
}

function equal(a: TensorFile, nameA: string, b: TensorFile, nameB: string): boolean {
  const [one, other] = [a.readTensor(nameA), b.readTensor(nameB)];
  const [kindA, kindB] = [one, other].map(({ dtype, shape }) => `${dtype} [${shape}]`);
  return kindA === kindB && Buffer.compare(one.bytes, other.bytes) === 0;
}

/** Reads all of a file that must be refused; any error but a clear refusal fails the group. */
function checkRefused(path: string): GroupResult {
  const group = path.slice(path.lastIndexOf('/') + 1);
  try {
    using file = openTensors(path);
    for (const name of file.tensors.keys()) for (const _ of file.parts(name));
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    const note = `refused: ${error.message.replace(`${path}: `, '')}`;
    return { group, error: 0, bound: 0, status: 'pass', note };
  }
  return { group, error: 1, bound: 0, status: 'fail', note: 'was read, but must be refused' };
}
