// Reads .safetensors files: the header is checked in full before any tensor is touched, and tensors are read
// one at a time from the file, so that a model of many gigabytes never lies in memory twice.

import { parseHeader, type TensorEntry } from './safetensors_header.ts';
import { Source } from './source.ts';
import { TensorFile, type TensorInfo } from './tensor-file.ts';

export type { TensorEntry } from './safetensors_header.ts';
export { count, type RawTensor } from './tensor-file.ts';

/** An open .safetensors file. `using file = Safetensors.open(path)` closes it. */
export class Safetensors extends TensorFile {
  readonly path: string;
  readonly format = 'safetensors';
  /** By name, in the order of the data. */
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  /** The file's `__metadata__`, empty if it has none. */
  readonly metadata: ReadonlyMap<string, string>;

  /** Takes `source` over: it is closed with this file, or at once where the header is wrong. */
  constructor(private readonly source: Source) {
    super();
    this.path = source.path;
    try {
      const header = parseHeader(source.path, source.size, (into, position) => source.fill(into, position));
      this.tensors = header.tensors;
      this.metadata = header.metadata;
    } catch (error) {
      source.close();
      throw error;
    }
  }

  /** Opens and checks a file; anything wrong with it is a Failure that names the file and what is wrong. */
  static open(path: string): Safetensors {
    return new Safetensors(Source.open(path));
  }

  /** The same for bytes in memory; `name` stands in messages. */
  static fromBytes(bytes: Uint8Array, name: string): Safetensors {
    return new Safetensors(Source.ofBytes(bytes, name));
  }

  close(): void {
    this.source.close();
  }

  protected readBytes(entry: TensorInfo, into: Uint8Array, at: number): void {
    this.source.fill(into, this.tensors.get(entry.name)!.position + at);
  }
}
