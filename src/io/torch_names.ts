// The names that a checkpoint's pickle may speak of, and what each becomes: storages and tensors as places
// in the file, dictionaries, and inert values for what lies around them (times, random states). Nothing else.

import type { Dtype } from './dtype.ts';
import { DTYPE_BYTES } from './dtype.ts';
import type { Failure } from './failure.ts';
import { brief, type Call, Dict, Inert, Name, PickledSet } from './pickle.ts';

/** Bytes of the file that tensors share. */
export interface Root {
  readonly key: string;
  readonly bytes: number;
}

/** A piece of a root as elements of one type; `dtype` is null for a storage of plain bytes. */
export class Storage {
  constructor(
    readonly root: Root,
    readonly dtype: Dtype | null,
    /** First byte in the root. */
    readonly begin: number,
    readonly bytes: number,
  ) {}
}

/** A tensor as it lies in its root: lengths and strides in elements. */
export class StoredTensor {
  constructor(
    readonly root: Root,
    readonly dtype: Dtype,
    /** First byte in the root. */
    readonly begin: number,
    readonly shape: readonly number[],
    readonly strides: readonly number[],
  ) {}
}

/** What a storage class of torch holds. */
export const STORAGES: ReadonlyMap<string, Dtype | null> = new Map([
  ...Object.entries({
    Double: 'F64',
    Float: 'F32',
    Half: 'F16',
    BFloat16: 'BF16',
    Long: 'I64',
    Int: 'I32',
    Short: 'I16',
    Char: 'I8',
    Byte: 'U8',
    Bool: 'BOOL',
  } as const).flatMap(([kind, dtype]): [string, Dtype][] => [
    [`torch.${kind}Storage`, dtype],
    [`torch.cuda.${kind}Storage`, dtype],
  ]),
  ['torch.storage.UntypedStorage', null],
  ['torch.UntypedStorage', null],
]);

/** Element types by their name, which stand beside the storage in newer files. */
const DTYPES: ReadonlyMap<string, Dtype> = new Map(
  Object.entries({
    float64: 'F64',
    float32: 'F32',
    float16: 'F16',
    bfloat16: 'BF16',
    int64: 'I64',
    int32: 'I32',
    int16: 'I16',
    int8: 'I8',
    uint64: 'U64',
    uint32: 'U32',
    uint16: 'U16',
    uint8: 'U8',
    bool: 'BOOL',
  } as const).map(([name, dtype]) => [`torch.${name}`, dtype]),
);

/** Names that may stand in a checkpoint without being called. */
const THINGS = ['numpy.ndarray', 'torch.Tensor', 'torch.nn.parameter.Parameter'];

/** Calls whose result nobody needs. */
const INERT = [
  'datetime.timedelta',
  'datetime.datetime',
  'datetime.date',
  'datetime.timezone',
  'datetime.timezone.utc',
  'torch.device',
  'torch.Generator',
  'numpy.dtype',
  ...['numpy.core', 'numpy._core'].flatMap((room) => [
    `${room}.multiarray._reconstruct`,
    `${room}.multiarray.scalar`,
    `${room}.numeric._frombuffer`,
  ]),
];

const MAX_AXES = 16;
/** Elements of a tensor that takes some of its storage several times over (`expand`). */
const MAX_EXPANDED = 2 ** 26;

type Refuse = (why: string) => Failure;

/** The list of names. `refuse` makes the Failure that names the file. */
export function torchNames(refuse: Refuse): ReadonlyMap<string, Call | null> {
  const plain = ([storage, offset, shape, strides]: readonly unknown[]) => {
    return rebuildTensor({ storage, offset, shape, strides }, refuse);
  };
  const typed = ([storage, offset, shape, strides, , , dtype]: readonly unknown[]) => {
    const found = dtype instanceof Name ? DTYPES.get(dtype.text) : undefined;
    if (!found) throw refuse(`a tensor of type ${brief(dtype)} cannot be read`);
    return rebuildTensor({ storage, offset, shape, strides, dtype: found }, refuse);
  };
  const parameter = ([tensor]: readonly unknown[]) => {
    if (!(tensor instanceof StoredTensor)) throw refuse('a parameter is made of what is no tensor');
    return tensor;
  };
  const dict = (items: unknown) => {
    const made = new Dict();
    if (items === undefined) return made;
    if (!Array.isArray(items)) throw refuse('a dictionary is made of what is no list of pairs');
    for (const pair of items) {
      if (!Array.isArray(pair) || pair.length !== 2 || made.pairs.has(pair[0])) {
        throw refuse('a dictionary is made of what is no list of distinct pairs');
      }
      made.pairs.set(pair[0], pair[1]);
    }
    return made;
  };
  const list = ([items = []]: readonly unknown[]) => {
    if (!Array.isArray(items)) throw refuse('a list is made of what is none');
    return items;
  };
  const set = (args: readonly unknown[]) => new PickledSet(list(args));
  const builtins: [string, Call | null][] = ['builtins', '__builtin__'].flatMap((room) => [
    [`${room}.set`, set],
    [`${room}.frozenset`, set],
    [`${room}.bytearray`, ([bytes]) => bytes ?? new Uint8Array(0)],
    [`${room}.complex`, (args) => new Inert('complex', args)],
    ...['dict', 'list', 'int', 'float', 'str', 'bool'].map((name): [string, null] => [
      `${room}.${name}`,
      null,
    ]),
  ]);
  return new Map<string, Call | null>([
    ...[...STORAGES.keys(), ...DTYPES.keys(), ...THINGS].map((name): [string, null] => [name, null]),
    ...INERT.map((name): [string, Call] => [name, (args) => new Inert(name, args)]),
    ...builtins,
    ['torch._utils._rebuild_tensor', plain],
    ['torch._utils._rebuild_tensor_v2', plain],
    ['torch._utils._rebuild_tensor_v3', typed],
    ['torch._utils._rebuild_parameter', parameter],
    ['torch._utils._rebuild_parameter_with_state', parameter],
    ['torch.Size', list],
    ['collections.OrderedDict', ([items]) => dict(items)],
    ['collections.defaultdict', ([, items]) => dict(items)],
    ['_codecs.encode', ([text, code]) => encode(text, code, refuse)],
  ]);
}

/** The bytes of a text in Latin-1: how protocol 2 writes bytes. */
function encode(text: unknown, code: unknown, refuse: Refuse): Uint8Array {
  if (typeof text !== 'string' || (code !== 'latin1' && code !== 'latin-1')) {
    throw refuse('calls _codecs.encode for something else than bytes');
  }
  return Uint8Array.from(text, (char) => char.charCodeAt(0));
}

interface TensorParts {
  readonly storage: unknown;
  readonly offset: unknown;
  readonly shape: unknown;
  readonly strides: unknown;
  readonly dtype?: Dtype;
}

/** Checks that every element lies in the storage. */
function rebuildTensor(parts: TensorParts, refuse: Refuse): StoredTensor {
  const { storage, offset, shape, strides } = parts;
  if (!(storage instanceof Storage)) throw refuse('a tensor is made of what is no storage');
  const dtype = storage.dtype ?? parts.dtype;
  if (dtype === undefined || (parts.dtype !== undefined && parts.dtype !== dtype)) {
    throw refuse(`a tensor has another type than its storage ${brief(storage.root.key)}`);
  }
  const wrong = (why: string) => refuse(`a tensor in storage ${brief(storage.root.key)} ${why}`);
  if (!isSize(offset)) throw wrong(`begins at element ${brief(offset)}`);
  if (!isSizes(shape)) throw wrong('has a shape that is not a short list of sizes');
  if (!isSizes(strides) || strides.length !== shape.length)
    throw wrong('has strides that do not fit its shape');
  const elements = shape.reduce((product, length) => product * length, 1);
  const held = Math.floor(storage.bytes / DTYPE_BYTES[dtype]);
  const last = elements === 0 ? -1 : shape.reduce((at, length, i) => at + (length - 1) * strides[i]!, offset);
  if (last >= held) throw wrong(`needs its element ${last}, but there are ${held}`);
  if (elements > Math.max(held, MAX_EXPANDED)) {
    throw wrong(`shows ${held} elements as ${elements}: shape [${shape.join(', ')}]`);
  }
  const begin = storage.begin + offset * DTYPE_BYTES[dtype];
  // Copies: the pickle may still append to its lists.
  const [lengths, steps] = [shape.slice(), strides.slice()];
  return new StoredTensor(storage.root, dtype, elements === 0 ? storage.begin : begin, lengths, steps);
}

function isSize(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}

function isSizes(value: unknown): value is readonly number[] {
  return Array.isArray(value) && value.length <= MAX_AXES && value.every(isSize);
}
