// Reads checkpoints of torch.save: both formats, strided and shared storages, files of any size. Which of
// the dictionaries in it holds the tensors is told by the usual keys or by the caller. Nothing is executed.

import { crc32 } from 'node:zlib';
import { DTYPE_BYTES } from './dtype.ts';
import { Failure } from './failure.ts';
import { brief, Dict } from './pickle.ts';
import { UNUSABLE_NAMES } from './safetensors_header.ts';
import { Source } from './source.ts';
import { gather, isContiguous, runBytes, spanBytes } from './strided.ts';
import { count, TensorFile, type TensorInfo } from './tensor-file.ts';
import { type Container, readContainer } from './torch_container.ts';
import { type Root, StoredTensor } from './torch_names.ts';
import { checkEntry, compareCrc } from './zip.ts';

export interface TorchOptions {
  /** Keys of the dictionary that holds the tensors, as in `state.model`; '' is the outermost. */
  readonly take?: string;
}

/** Where tensors are looked for, in this order: bare, as Composer saves, as most training scripts save. */
const USUAL = ['', 'state.model', 'state_dict', 'model_state_dict', 'model', 'module'];

/** What Composer's checkpoints of the reference put before the names of the transformer. */
const COMPOSER = { place: 'state.model', prefix: 'dit.' };

/** Largest piece of a storage that is held to put a strided tensor together. */
const MAX_SPAN_BYTES = 2 ** 30;
/** Runs of so many bytes are read one by one where the piece would be larger than that. */
const LONG_RUN_BYTES = 4096;

/** An open checkpoint. `using file = TorchFile.open(path)` closes it. */
export class TorchFile extends TensorFile {
  readonly path: string;
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly metadata: ReadonlyMap<string, string> = new Map();
  /** Keys of the dictionary that the tensors were found in; '' is the outermost. */
  readonly place: string;
  /** Keys beside the tensors whose values are none. */
  readonly others: readonly string[];

  private readonly container: Container;
  private readonly stored = new Map<string, StoredTensor>();
  /** Roots whose checksum has been compared. */
  private readonly checked = new Set<Root>();
  /** Checksum so far of a root that is read from its beginning to its end. */
  private readonly sum = { root: undefined as Root | undefined, at: 0, crc: 0 };
  /** The piece of a root that the last strided tensor came from. */
  private held: { tensor: StoredTensor; bytes: Uint8Array } | undefined;

  /** Takes `source` over: it is closed with this file, or at once where something is wrong. */
  constructor(
    private readonly source: Source,
    { take }: TorchOptions = {},
  ) {
    super();
    this.path = source.path;
    try {
      this.container = readContainer(source);
      const { place, dict } = this.findTensors(take);
      this.place = place;
      const tensors = new Map<string, TensorInfo>();
      const others: string[] = [];
      for (const [key, value] of dict.pairs) {
        if (!(value instanceof StoredTensor)) {
          others.push(typeof key === 'string' ? key : brief(key));
          continue;
        }
        if (typeof key !== 'string' || UNUSABLE_NAMES.has(key))
          throw this.refuse(`a tensor is named ${brief(key)}`);
        const { dtype, shape } = value;
        this.stored.set(key, value);
        tensors.set(key, { name: key, dtype, shape, bytes: count({ shape }) * DTYPE_BYTES[dtype] });
      }
      this.tensors = tensors;
      this.others = others;
    } catch (error) {
      source.close();
      throw error;
    }
  }

  /** Opens and checks a file; anything wrong with it is a Failure that names the file and what is wrong. */
  static open(path: string, options?: TorchOptions): TorchFile {
    return new TorchFile(Source.open(path), options);
  }

  get format(): string {
    return this.container.format;
  }

  override get prefix(): string {
    const ours =
      this.place === COMPOSER.place && [...this.tensors.keys()].some((n) => n.startsWith(COMPOSER.prefix));
    return ours ? COMPOSER.prefix : '';
  }

  close(): void {
    this.source.close();
  }

  protected readBytes({ name }: TensorInfo, into: Uint8Array, at: number): void {
    const tensor = this.stored.get(name)!;
    if (into.length === 0) return;
    if (!isContiguous(tensor)) {
      this.checkRoot(tensor.root);
      this.readStrided(tensor, into, at);
      return;
    }
    const { root, begin } = tensor;
    const whole = begin === 0 && count(tensor) * DTYPE_BYTES[tensor.dtype] === root.bytes;
    if (whole && (at === 0 || (this.sum.root === root && this.sum.at === at))) {
      this.readSummed(root, into, at);
      return;
    }
    this.checkRoot(root);
    this.readRoot(root, into, begin + at);
  }

  private readRoot(root: Root, into: Uint8Array, at: number): void {
    this.source.fill(into, this.container.place(root).position + at);
  }

  /** Reads on in a root that one tensor takes whole, and compares the checksum at the end. */
  private readSummed(root: Root, into: Uint8Array, at: number): void {
    this.readRoot(root, into, at);
    const { entry } = this.container.place(root);
    if (!entry || this.checked.has(root)) return;
    const crc = crc32(into, at === 0 ? 0 : this.sum.crc);
    Object.assign(this.sum, { root, crc, at: at + into.length });
    if (at + into.length < root.bytes) return;
    compareCrc(this.source, entry, crc);
    this.checked.add(root);
  }

  /** Compares the checksum of a root before a part of it is believed. */
  private checkRoot(root: Root): void {
    if (this.checked.has(root)) return;
    const { entry } = this.container.place(root);
    if (entry) checkEntry(this.source, entry);
    this.checked.add(root);
  }

  private readStrided(tensor: StoredTensor, into: Uint8Array, at: number): void {
    const span = spanBytes(tensor);
    if (span <= MAX_SPAN_BYTES) {
      if (this.held?.tensor !== tensor) {
        const bytes = new Uint8Array(span);
        this.readRoot(tensor.root, bytes, tensor.begin);
        this.held = { tensor, bytes };
      }
      const { bytes } = this.held;
      gather(tensor, at, into.length, (to, from, length) => {
        for (let i = 0; i < length; i++) into[to + i] = bytes[from + i]!;
      });
      if (at + into.length === count(tensor) * DTYPE_BYTES[tensor.dtype]) this.held = undefined;
      return;
    }
    if (runBytes(tensor) < LONG_RUN_BYTES) {
      const why = `a tensor of shape [${tensor.shape.join(', ')}] lies strewn over ${span} bytes`;
      throw this.refuse(why, 'Save it again after .contiguous()');
    }
    gather(tensor, at, into.length, (to, from, length) => {
      this.readRoot(tensor.root, into.subarray(to, to + length), tensor.begin + from);
    });
  }

  private findTensors(take: string | undefined): { place: string; dict: Dict } {
    const { value } = this.container;
    const holds = (dict: Dict) => dict.pairs.values().some((item) => item instanceof StoredTensor);
    for (const place of take === undefined ? USUAL : [take]) {
      const dict = step(value, place);
      if (dict && holds(dict)) return { place, dict };
    }
    const keys = value instanceof Dict ? [...value.pairs.keys()].slice(0, 10).map(brief).join(', ') : '';
    const what = value instanceof Dict ? `a dictionary with the keys ${keys || '(none)'}` : 'no dictionary';
    const why = take === undefined ? 'no tensors in the usual places' : `no tensors at ${brief(take)}`;
    throw this.refuse(
      `${why}: it holds ${what}`,
      'Name the place, as in state.model, or save the state_dict alone',
    );
  }

  private refuse(why: string, fix = 'Copy or download it again'): Failure {
    return new Failure({ what: this.path, why, fix });
  }
}

/** The dictionary under `a.b.c` of a value. */
function step(value: unknown, place: string): Dict | undefined {
  let at = value;
  for (const key of place === '' ? [] : place.split('.')) at = at instanceof Dict ? at.get(key) : undefined;
  return at instanceof Dict ? at : undefined;
}
