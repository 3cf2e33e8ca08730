// Damaged and hostile files of torch.save: every one is refused in one line that says why; nothing runs.

import { afterAll, describe, expect, test } from 'bun:test';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Failure } from '../../src/io/failure.ts';
import { openTensors } from '../../src/io/open-tensors.ts';
import {
  bytes,
  dict,
  type Entry,
  global,
  int,
  pickle,
  put,
  storage,
  tensor,
  type TensorWords,
  text,
  torchLegacy,
  torchZip,
  tuple,
  u32,
  u64,
  zip,
  type ZipOptions,
} from './torch-case.ts';

const folder = mkdtempSync(join(tmpdir(), 'microdiff-hostile-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const GOLDENS = join(import.meta.dir, '../goldens/microdit');

const SIX = bytes(Float32Array.of(0, 1, 2, 3, 4, 5));
const GOOD = pickle(dict(text('w'), tensor()));

/** Reads all of a file; the message of its refusal, or 'accepted'. Any other error fails the test. */
function refusal(content: Uint8Array): string {
  const path = put(join(folder, 'x.pt'), content);
  try {
    using file = openTensors(path);
    for (const name of file.tensors.keys()) for (const _ of file.parts(name));
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    expect(error.message).not.toContain('\n');
    expect(error.message).toStartWith(`${path}: `);
    expect(error.message.length).toBeLessThan(500 + path.length);
    expect(error.code).toBe(1);
    return error.message;
  }
  return 'accepted';
}

const ofPickle = (...parts: (string | Uint8Array)[]) => refusal(torchZip(pickle(...parts), { '0': SIX }));

test('the file that the damages below start from is good', () => {
  expect(refusal(torchZip(GOOD, { '0': SIX }))).toBe('accepted');
  expect(refusal(torchLegacy(GOOD, [['0', 6, SIX]]))).toBe('accepted');
});

describe('names', () => {
  const call = tuple(text('true'));
  const cases: [string, Uint8Array, string][] = [
    ['REDUCE', bytes(global('os', 'system'), call, 'R'), 'names os.system'],
    ['posix', bytes(global('posix', 'system'), call, 'R'), 'names posix.system'],
    ['eval', bytes(global('builtins', 'eval'), call, 'R'), 'names builtins.eval'],
    ['eval of Python 2', bytes(global('__builtin__', 'eval'), call, 'R'), 'names __builtin__.eval'],
    ['getattr', bytes(global('builtins', 'getattr'), call, 'R'), 'names builtins.getattr'],
    ['import', bytes(global('builtins', '__import__'), call, 'R'), 'names builtins.__import__'],
    ['STACK_GLOBAL', bytes(text('subprocess'), text('Popen'), 0x93, call, 'R'), 'names subprocess.Popen'],
    ['NEWOBJ', bytes(global('a.b', 'C'), ')', 0x81), 'names a.b.C'],
    ['INST', bytes('(', text('true'), 'i', 'os\nsystem\n'), 'names os.system'],
    ['OBJ', bytes('(', global('os', 'system'), text('true'), 'o'), 'names os.system'],
    ['copyreg', bytes(global('copyreg', '_reconstructor')), 'names copyreg._reconstructor'],
    ['prototype', bytes(global('', '__proto__')), 'names .__proto__'],
    ['control characters', bytes(global('a\x1b[31m\r', 'b')), 'names "a\\u001b[31m\\r.b"'],
    ['a long name', bytes(global('x'.repeat(900), 'y')), `names "${'x'.repeat(120)}"`],
    ['a longer name', bytes(global('x'.repeat(5000), 'y')), 'holds a name of more than 1000 bytes'],
    ['call of a storage', bytes(global('torch', 'FloatStorage'), ')R'), 'calls torch.FloatStorage'],
    ['call of no name', bytes(text('x'), ')R'), 'calls what is no name'],
    ['named arguments', bytes(global('torch', 'device'), ')', dict(text('a'), 'N'), 0x92), 'named arguments'],
    ['state of a tensor', bytes(tensor(), dict(), 'b'), 'sets the state of a thing that has none'],
    ['EXT1', bytes(0x82, 1), 'unknown operation 0x82'],
    ['text of a persistent id', bytes('P0\n'), 'unknown operation 0x50'],
    ['_codecs', bytes(global('_codecs', 'encode'), tuple(text('x'), text('rot13')), 'R'), '_codecs.encode'],
  ];
  for (const [name, words, why] of cases) {
    test(name, () => {
      expect(ofPickle(words)).toContain(why);
      expect(refusal(torchLegacy(pickle(words), []))).toContain(why);
    });
  }

  test('the hostile golden, and what it advises', () => {
    const message = refusal(readFileSync(join(GOLDENS, 'hostile_reduce.pt')));
    expect(message).toEndWith(
      'its pickle names os.system, which is not data. Nothing in it was run; ask its author for ' +
        'tensors only, best as safetensors',
    );
  });

  test('a bare pickle with a call', () => {
    expect(refusal(pickle(global('os', 'system'), tuple(text('true')), 'R'))).toContain('names os.system');
  });
});

describe('damaged pickles', () => {
  const cases: [string, Uint8Array, string][] = [
    ['empty', bytes(), 'is truncated'],
    ['protocol 0', bytes('(dp0\n.'), 'is not a pickle of protocol 2 to 5'],
    ['protocol 6', bytes(0x80, 6, '}.'), 'is not a pickle of protocol 2 to 5'],
    ['no end', bytes(0x80, 2, '}'), 'is truncated'],
    ['stack', bytes(0x80, 2, '.'), 'its stack is empty'],
    ['pop over a mark', bytes(0x80, 2, 'N(00.'), 'its stack is empty'],
    ['mark', bytes(0x80, 2, 't.'), 'a mark is missing'],
    ['memo', bytes(0x80, 2, 'h', 7, '.'), 'memo 7 is empty'],
    ['append', bytes(0x80, 2, '}Na.'), 'appends to what is no list'],
    ['odd items', bytes(0x80, 2, '}(Nu.'), 'sets items of no dictionary'],
    ['set', bytes(0x80, 4, '](N', 0x90, '.'), 'adds items to what is no set'],
    ['text beyond the end', bytes(0x80, 2, 'X', u32(0xfffffff0), 'x.'), 'is truncated'],
    ['2^63 bytes', bytes(0x80, 5, 0x8e, u64(2n ** 63n), 'x.'), 'is truncated'],
    [
      'huge integer',
      bytes(0x80, 2, 0x8b, u32(2 ** 20), new Uint8Array(2 ** 20), '.'),
      'an integer of 1048576',
    ],
    ['no UTF-8', bytes(0x80, 2, 'X', u32(2), 0xff, 0xfe, '.'), 'not UTF-8'],
    ['arguments', bytes(0x80, 2, global('torch', 'device'), 'NR.'), 'arguments are no tuple'],
    [
      'duplicate names',
      pickle(dict(text('w'), tensor(), text('w'), tensor())),
      'the key "w" stands there twice',
    ],
    ['no tensors', pickle(dict()), 'no tensors in the usual places'],
    ['no dictionary', pickle(']'), 'it holds no dictionary'],
    ['a tensor alone', pickle(tensor()), 'it holds no dictionary'],
    ['name of a tensor', pickle(dict(text('__proto__'), tensor())), 'a tensor is named "__proto__"'],
    ['number as a name', pickle(dict(int(3), tensor())), 'a tensor is named 3'],
  ];
  for (const [name, data, why] of cases) {
    test(name, () => expect(refusal(torchZip(data, { '0': SIX }))).toContain(why));
  }

  test('nesting, stacks and memos end before memory does', () => {
    const many = (word: string, count: number) => word.repeat(count);
    expect(ofPickle(many('(', 2000))).toContain('nested too deep');
    expect(ofPickle(many(']', 100_000))).toContain('its stack grows too high');
    expect(ofPickle(many(']', 60_000), many('a', 59_999))).toContain('it holds no dictionary');
    // A list of two of the list before, forty times over: 2^40 leaves for whoever walks it.
    const bomb = Array.from({ length: 40 }, (_, i) => bytes('q', i, '](', 'h', i, 'h', i, 'e'));
    expect(ofPickle(']', ...bomb)).toContain('it holds no dictionary');
    const begin = performance.now();
    expect(ofPickle(many(']0', 5_000_000))).toContain('too much for a checkpoint');
    expect(performance.now() - begin).toBeLessThan(20_000);
  });

  test('lists that grow after they were a shape', () => {
    const shape = bytes('](', int(2), int(3), 'e', 'q', 9);
    const call = bytes(
      ...[
        global('torch._utils', '_rebuild_tensor_v2'),
        '(',
        storage({}),
        int(0),
        shape,
        tuple(int(3), int(1)),
      ],
      ...[0x89, 'NtR'],
    );
    const grown = pickle('}(', text('w'), call, text('x'), bytes('h', 9, int(1000000), 'a'), 'u');
    expect(refusal(torchZip(grown, { '0': SIX }))).toBe('accepted');
  });
});

describe('tensors and storages', () => {
  const cases: [string, TensorWords, string][] = [
    ['too short', { shape: [2, 4], strides: [4, 1] }, 'needs its element 7, but there are 6'],
    ['offset', { offset: 1 }, 'needs its element 6, but there are 6'],
    ['strides', { strides: [6, 1] }, 'needs its element 8, but there are 6'],
    ['negative offset', { offset: -1 }, 'begins at element -1'],
    ['negative stride', { offset: 5, strides: [-3, -1] }, 'strides that do not fit'],
    ['negative length', { shape: [-2, 3] }, 'a shape that is not a short list of sizes'],
    ['axes', { shape: Array(20).fill(1), strides: Array(20).fill(1) }, 'a shape that is not a short list'],
    ['fewer strides', { strides: [1] }, 'strides that do not fit its shape'],
    ['expanded beyond reason', { shape: [2 ** 31 - 1, 2 ** 20], strides: [0, 0] }, 'shows 6 elements as'],
    ['sum beyond 2^53', { shape: [2, 2], strides: [2 ** 53 - 1, 2 ** 53 - 1] }, 'but there are 6'],
    ['storage longer than the entry', { held: 7 }, 'needs 28 bytes of "m/data/0", which has 24'],
    ['storage of 2^60 elements', { held: 2 ** 60 }, 'has a storage of'],
    ['negative storage', { held: -6 }, 'has a storage of -6 elements'],
    ['unknown key', { key: '../0' }, 'needs the storage "../0", which is not in the archive'],
    ['no storage class', { kind: 'float32' }, 'a storage of the unknown kind torch.float32'],
    ['complex', { kind: 'ComplexFloatStorage' }, 'names torch.ComplexFloatStorage'],
  ];
  for (const [name, words, why] of cases) {
    test(name, () => expect(ofPickle(dict(text('w'), tensor(words)))).toContain(why));
  }

  test('persistent ids', () => {
    expect(ofPickle(tuple(text('module'), 'N'), 'Q')).toContain(
      'refers to "module" where a storage is expected',
    );
    expect(ofPickle(text('0'), 'Q')).toContain('refers to something where a storage is expected');
    expect(ofPickle(tuple(), 'Q')).toContain('where a storage is expected');
    expect(ofPickle(tuple(text('storage'), 'N', 'N', 'N', 'N'), 'Q')).toContain('unknown kind');
  });

  test('one storage as two types, tensors of no storage', () => {
    const two = dict(text('a'), tensor(), text('b'), tensor({ kind: 'IntStorage' }));
    expect(ofPickle(two)).toContain('describes storage "0" in two ways');
    expect(refusal(torchLegacy(pickle(two), [['0', 6, SIX]]))).toContain('describes storage "0" in two ways');
    const none = bytes(global('torch._utils', '_rebuild_tensor_v2'), ')R');
    expect(ofPickle(none)).toContain('made of what is no storage');
    expect(ofPickle(global('torch._utils', '_rebuild_parameter'), ')R')).toContain(
      'made of what is no tensor',
    );
  });
});

describe('archives', () => {
  const data = { name: 'm/data.pkl', data: GOOD };
  const six = { name: 'm/data/0', data: SIX };
  const archive = (entries: readonly Entry[], options?: ZipOptions) => refusal(zip(entries, options));

  const entries: [string, readonly Entry[], string][] = [
    ['no pickle', [six], 'with 0 entries data.pkl'],
    ['two pickles', [data, six, { name: 'n/data.pkl', data: GOOD }], 'with 2 entries data.pkl'],
    ['the same name twice', [data, six, six], '"m/data/0" stands twice in its directory'],
    ['a place of another', [data, six, { ...six, name: 'm/data/1', place: 0 }], 'does not fit the directory'],
    ['compressed', [data, { ...six, method: 8 }], '"m/data/0" is compressed (method 8)'],
    ['zip bomb', [data, { ...six, size: 2 ** 31 }], '24 bytes that stand for 2147483648'],
    ['encrypted', [data, { ...six, flags: 1 }], '"m/data/0" is encrypted'],
    ['other local name', [data, { ...six, localName: 'm/data/9' }], 'does not fit the directory'],
    ['place outside', [data, { ...six, place: 2 ** 31 }], 'does not lie where the directory says'],
    ['place in the middle', [data, { ...six, place: 3 }], 'does not lie where the directory says'],
    ['checksum of the pickle', [{ ...data, crc: 1 }, six], 'the checksum of "m/data.pkl" does not fit'],
    ['checksum of a storage', [data, { ...six, crc: 1 }], 'the checksum of "m/data/0" does not fit'],
    ['big-endian', [data, six, { name: 'm/byteorder', data: bytes('big') }], 'its byte order is "big"'],
  ];
  for (const [name, list, why] of entries) test(name, () => expect(archive(list)).toContain(why));

  test('a storage checksum that is wrong is noticed by views and strided tensors too', () => {
    for (const words of [
      { shape: [2], strides: [1] },
      { strides: [1, 2] },
      { offset: 5, shape: [], strides: [] },
    ]) {
      const view = { name: 'm/data.pkl', data: pickle(dict(text('w'), tensor(words))) };
      expect(archive([view, { ...six, crc: 1 }])).toContain('the checksum of "m/data/0" does not fit');
    }
  });

  test('an entry inside another', () => {
    const inner = zip([{ name: 'm/data/1', data: SIX }]);
    const outer = { name: 'm/data/0', data: inner };
    const place = zip([data]).length - (46 + data.name.length + 22) + (30 + outer.name.length + 7);
    const message = archive([data, outer, { name: 'm/data/1', data: SIX, place }]);
    expect(message).toContain('its entries "m/data/0" and "m/data/1" overlap');
  });

  const ends: [string, ZipOptions, string][] = [
    ['more entries than there are', { entries: 1 }, 'do not fit its directory'],
    ['many more entries', { entries: 60_000 }, 'do not fit its directory'],
    ['fewer entries', { entries: -1 }, 'bytes more than its entries'],
    ['directory further on', { position: 8 }, 'its directory'],
    ['directory far outside', { position: 2 ** 31 }, 'its directory does not lie where it says'],
    ['directory before', { position: -8 }, 'its directory is broken'],
    ['directory of 1 GiB', { directory: 2 ** 30 }, 'its directory does not lie where it says'],
    ['zip64 of 2^40 entries', { zip64: true, entries: 2 ** 40 }, 'which is too much'],
    ['zip64 far outside', { zip64: true, position: 2 ** 52 }, 'its directory does not lie where it says'],
    ['several disks', { disk: 1 }, 'split over several files'],
  ];
  for (const [name, options, why] of ends) {
    test(name, () => expect(archive([data, six], options)).toContain(why));
  }

  test('zip64 and a comment are read', () => {
    expect(
      archive(
        [
          { ...data, zip64: true },
          { ...six, zip64: true },
        ],
        { zip64: true },
      ),
    ).toBe('accepted');
    expect(archive([data, six], { comment: 'PK\x05\x06 a comment' })).toBe('accepted');
  });

  test('cut off at every length, and followed by more', () => {
    const good = torchZip(GOOD, { '0': SIX });
    for (let length = 0; length < good.length; length++) {
      expect(refusal(good.subarray(0, length))).not.toBe('accepted');
    }
    expect(refusal(bytes(good, 'more'))).toContain('no directory at its end');
  });

  test('any flipped bit is refused or changes no value', () => {
    const good = torchZip(GOOD, { '0': SIX });
    for (let at = 0; at < good.length; at++) {
      const bad = good.slice();
      bad[at]! ^= 1 << (at % 8);
      if (refusal(bad) !== 'accepted') continue;
      using file = openTensors(join(folder, 'x.pt'));
      expect([...file.readFloat32('w')]).toEqual([0, 1, 2, 3, 4, 5]);
    }
  });
});

describe('legacy files', () => {
  const good = torchLegacy(GOOD, [['0', 6, SIX]]);
  const cases: [string, Uint8Array, string][] = [
    ['not of torch', pickle(dict()), 'not one of torch.save'],
    [
      'version',
      torchLegacy(GOOD, [['0', 6, SIX]], { version: 1002 }),
      'version 1002 of torch.save is not known',
    ],
    ['big-endian', torchLegacy(GOOD, [['0', 6, SIX]], { littleEndian: false }), 'not little-endian'],
    ['no storages', torchLegacy(GOOD, []), 'storage "0" is missing'],
    ['another length', torchLegacy(GOOD, [['0', 5, SIX]]), 'storage "0" has 5 elements'],
    ['absurd length', torchLegacy(GOOD, [['0', 2 ** 52, SIX]]), 'storage "0" has 4503599627370496 elements'],
    ['unknown storage', torchLegacy(GOOD, [['7', 6, SIX]]), 'lists the storage "7"'],
    [
      'the same storage twice',
      torchLegacy(GOOD, [
        ['0', 6, SIX],
        ['0', 6, SIX],
      ]),
      'lists the storage "0"',
    ],
    ['more behind', bytes(good, 1), '1 bytes follow the last storage'],
    ['tar', bytes(new Uint8Array(257), 'ustar', new Uint8Array(200)), 'neither a safetensors file nor'],
    ['storage in the header', bytes(pickle(storage({})), GOOD), 'before there are any'],
  ];
  for (const [name, data, why] of cases) test(name, () => expect(refusal(data)).toContain(why));

  test('cut off at every length', () => {
    for (let length = 0; length < good.length; length++) {
      expect(refusal(good.subarray(0, length))).not.toBe('accepted');
    }
  });

  test('views outside their storage', () => {
    for (const [first, elements] of [
      [4, 3],
      [-1, 3],
      [0, 2 ** 40],
    ] as const) {
      const view = tuple(text('v'), int(first), int(elements));
      const data = pickle(dict(text('w'), tensor({ view, shape: [1], strides: [1] })));
      expect(refusal(torchLegacy(data, [['0', 6, SIX]]))).toContain('has a view outside storage "0"');
    }
  });
});
