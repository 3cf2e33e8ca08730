// Files of torch.save, made by hand: both formats, all types, strides, views, places of the tensors.

import { afterAll, describe, expect, test } from 'bun:test';
import {
  closeSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  rmSync,
  statfsSync,
  statSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Failure } from '../../src/io/failure.ts';
import { openTensors } from '../../src/io/open-tensors.ts';
import { Safetensors } from '../../src/io/safetensors.ts';
import { TorchFile } from '../../src/io/torch.ts';
import * as made from './torch-case.ts';
import {
  bytes,
  dict,
  global,
  int,
  ordered,
  pickle,
  put,
  tensor,
  text,
  torchLegacy,
  torchZip,
  tuple,
} from './torch-case.ts';

const folder = mkdtempSync(join(tmpdir(), 'microdiff-torch-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string) => join(folder, name);

const SIX = Float32Array.of(0, 1, 2, 3, 4, 5);
const GOLDENS = join(import.meta.dir, '../goldens/microdit');

describe('goldens', () => {
  for (const name of ['torch_zip', 'torch_legacy', 'composer_ckpt', 'composer_ckpt_with_rng']) {
    test(name, () => {
      using file = TorchFile.open(join(GOLDENS, `${name}.pt`));
      using want = Safetensors.open(join(GOLDENS, 'nano_bias.weights.safetensors'));
      const ours = [...file.tensors.keys()].filter((key) => key.startsWith(file.prefix));
      expect(ours.length).toBe(name.endsWith('rng') ? 12 : want.tensors.size);
      expect(file.prefix).toBe(name.startsWith('composer') ? 'dit.' : '');
      for (const key of ours) {
        expect(file.readTensor(key)).toEqual(want.readTensor(key.slice(file.prefix.length)));
      }
    });
  }
});

describe('tensors', () => {
  const files = (data: Uint8Array, elements = 6, values: ArrayBufferView = SIX) => [
    TorchFile.open(put(at('a.pt'), torchZip(data, { '0': values }))),
    TorchFile.open(put(at('b.pt'), torchLegacy(data, [['0', elements, values]]))),
  ];

  test('shared storages, views, transposed, expanded, scalar, empty', () => {
    const data = pickle(
      ordered(
        ...[text('whole'), tensor()],
        ...[text('row'), tensor({ offset: 3, shape: [3], strides: [1] })],
        ...[text('turned'), tensor({ shape: [3, 2], strides: [1, 3] })],
        ...[text('column'), tensor({ offset: 1, shape: [2], strides: [3] })],
        ...[text('wide'), tensor({ offset: 2, shape: [2, 3, 2], strides: [1, 0, 2] })],
        ...[text('scalar'), tensor({ offset: 5, shape: [], strides: [] })],
        ...[text('empty'), tensor({ offset: 0, shape: [0, 3], strides: [3, 1] })],
        ...[text('one'), tensor({ offset: 4, shape: [1, 2], strides: [77, 1] })],
      ),
    );
    for (const file of files(data)) {
      expect([...file.readFloat32('whole')]).toEqual([0, 1, 2, 3, 4, 5]);
      expect([...file.readFloat32('row')]).toEqual([3, 4, 5]);
      expect([...file.readFloat32('turned')]).toEqual([0, 3, 1, 4, 2, 5]);
      expect([...file.readFloat64('column')]).toEqual([1, 4]);
      expect([...file.readFloat32('wide')]).toEqual([2, 4, 2, 4, 2, 4, 3, 5, 3, 5, 3, 5]);
      expect([...file.readFloat32('scalar')]).toEqual([5]);
      expect(file.readFloat32('empty').length).toBe(0);
      expect([...file.readFloat32('one')]).toEqual([4, 5]);
      expect(file.entry('wide')).toEqual({ name: 'wide', dtype: 'F32', shape: [2, 3, 2], bytes: 48 });
      file.close();
    }
  });

  test('every type', () => {
    const types: [string, ArrayBufferView, string, number[]][] = [
      ['DoubleStorage', Float64Array.of(1.5, -2), 'F64', [1.5, -2]],
      ['FloatStorage', Float32Array.of(1.5, -2), 'F32', [1.5, -2]],
      ['HalfStorage', Uint16Array.of(0x3e00, 0xc000), 'F16', [1.5, -2]],
      ['BFloat16Storage', Uint16Array.of(0x3fc0, 0xc000), 'BF16', [1.5, -2]],
      ['LongStorage', BigInt64Array.of(5n, -6n), 'I64', [5, -6]],
      ['IntStorage', Int32Array.of(5, -6), 'I32', [5, -6]],
      ['ShortStorage', Int16Array.of(5, -6), 'I16', [5, -6]],
      ['CharStorage', Int8Array.of(5, -6), 'I8', [5, -6]],
      ['ByteStorage', Uint8Array.of(5, 250), 'U8', [5, 250]],
      ['BoolStorage', Uint8Array.of(1, 0), 'BOOL', [1, 0]],
    ];
    for (const [kind, values, dtype, numbers] of types) {
      const data = pickle(dict(text('w'), tensor({ kind, held: 2, shape: [2], strides: [1] })));
      for (const file of files(data, 2, values)) {
        expect(file.entry('w').dtype as string).toBe(dtype);
        expect([...file.readFloat32('w')]).toEqual(numbers);
        file.close();
      }
    }
  });

  test('_rebuild_tensor_v3 over plain bytes, parameters, attributes of an OrderedDict', () => {
    const plain = bytes(
      tuple(text('storage'), global('torch.storage', 'UntypedStorage'), text('0'), text('cpu'), int(4)),
      'Q',
    );
    const v3 = tuple(plain, int(1), tuple(int(1)), tuple(int(1)), 0x89, 'N', global('torch', 'uint16'));
    const parameter = tuple(tensor({ key: '1' }), 0x88, 'N');
    const data = pickle(
      ordered(
        ...[text('v3'), global('torch._utils', '_rebuild_tensor_v3'), v3, 'R'],
        ...[text('p'), global('torch._utils', '_rebuild_parameter'), parameter, 'R'],
      ),
      dict(text('_metadata'), 'N'),
      'b',
    );
    using file = TorchFile.open(
      put(at('v3.pt'), torchZip(data, { '0': Uint16Array.of(7, 65535), '1': SIX })),
    );
    expect([...file.readInt32('v3')]).toEqual([65535]);
    expect(file.entry('v3').dtype).toBe('U16');
    expect([...file.readFloat32('p')]).toEqual([...SIX]);
  });

  test('views of the oldest legacy files', () => {
    const view = tuple(text('v'), int(2), int(3));
    const data = pickle(dict(text('w'), tensor({ view, offset: 1, shape: [2], strides: [1] })));
    using file = TorchFile.open(put(at('view.pt'), torchLegacy(data, [['0', 6, SIX]])));
    expect([...file.readFloat32('w')]).toEqual([3, 4]);
  });

  test('strided tensors read in parts, larger than one part', () => {
    const [rows, columns] = [1500, 1100];
    const values = Float32Array.from({ length: rows * columns }, (_, i) => i);
    const turned = tensor({ held: values.length, shape: [columns, rows], strides: [1, columns] });
    using file = TorchFile.open(
      put(at('turned.pt'), torchZip(pickle(dict(text('w'), turned)), { '0': values })),
    );
    const got = file.readFloat64('w');
    for (const i of [0, 1, rows, 1048575, 1048576, got.length - 1]) {
      expect(got[i]).toBe((i % rows) * columns + Math.floor(i / rows));
    }
  });
});

describe('where the tensors are', () => {
  const state = dict(text('dit.w'), tensor(), text('vae.b'), tensor(), text('_extra_state'), 'N');
  const nested: [string, Uint8Array, string][] = [
    ['bare', state, ''],
    ['composer', dict(text('state'), dict(text('model'), state, text('run_name'), text('x'))), 'state.model'],
    ['state_dict', dict(text('epoch'), int(3), text('state_dict'), state), 'state_dict'],
    ['model', dict(text('model'), state, text('optimizer'), dict()), 'model'],
  ];
  for (const [name, value, place] of nested) {
    test(name, () => {
      using file = TorchFile.open(put(at('place.pt'), torchZip(pickle(value), { '0': SIX })));
      expect(file.place).toBe(place);
      expect(file.prefix).toBe(name === 'composer' ? 'dit.' : '');
      expect([...file.tensors.keys()]).toEqual(['dit.w', 'vae.b']);
      expect(file.others).toEqual(['_extra_state']);
    });
  }

  test('anywhere, when told; else the keys are named', () => {
    const path = put(at('odd.pt'), torchZip(pickle(dict(text('net'), dict(text('g'), state))), { '0': SIX }));
    using file = TorchFile.open(path, { take: 'net.g' });
    expect(file.tensors.size).toBe(2);
    expect(() => TorchFile.open(path)).toThrow('it holds a dictionary with the keys "net"');
    expect(() => TorchFile.open(path, { take: 'net.h' })).toThrow('no tensors at "net.h"');
  });
});

describe('openTensors', () => {
  test('tells the format by the bytes', () => {
    const zip = put(at('zip.safetensors'), torchZip(pickle(dict(text('w'), tensor())), { '0': SIX }));
    expect(openTensors(zip)).toBeInstanceOf(TorchFile);
    // A header of 640 bytes begins like a pickle of protocol 2.
    const header = JSON.stringify({ w: { dtype: 'U8', shape: [1], data_offsets: [0, 1] } }).padEnd(640);
    const file = openTensors(put(at('header.pt'), bytes(made.u64(640), header, 7)));
    expect(file).toBeInstanceOf(Safetensors);
    expect([...file.readInt32('w')]).toEqual([7]);
  });

  test('what is neither', () => {
    const message = (path: string) => {
      try {
        openTensors(path);
      } catch (error) {
        expect(error).toBeInstanceOf(Failure);
        return (error as Failure).message;
      }
      return 'accepted';
    };
    expect(message(put(at('empty.pt'), bytes()))).toContain('empty.pt: the file is empty');
    expect(message(put(at('text.pt'), bytes('hello, this is text')))).toContain(
      'neither a safetensors file nor',
    );
    expect(message(folder)).toContain('this is a folder, not a file');
    expect(message(at('absent.pt'))).toContain('no such file');
    expect(message(put(at('short.safetensors'), bytes('abc')))).toContain('not a safetensors file');
  });
});

test('a sparse file of more than 4 GiB, in zip64', () => {
  const size = 4.5 * 2 ** 30;
  const disk = statfsSync(folder);
  if (disk.bavail * disk.bsize < 2 ** 26) return;
  // Its storage is a hole of which only the last elements are looked at; the legacy format has no checksum.
  const held = size / 4;
  const tail = tensor({ held, offset: held - 2, shape: [2], strides: [1] });
  const legacy = torchLegacy(pickle(dict(text('tail'), tail, text('w'), tensor({ key: '1' }))), []);
  const keys = pickle('](', text('0'), text('1'), 'e');
  const head = legacy.subarray(0, legacy.length - pickle('](e').length);
  const path = at('large.pt');
  const fd = openSync(path, 'w');
  const begin = bytes(head, keys, made.u64(held));
  writeSync(fd, begin);
  writeSync(fd, bytes(Float32Array.of(8, 9), made.u64(6), SIX), 0, 8 + 8 + 24, begin.length + size - 8);
  closeSync(fd);
  expect(statSync(path).size).toBeGreaterThan(2 ** 32);
  const before = process.memoryUsage().rss;
  {
    using file = TorchFile.open(path);
    expect([...file.readFloat32('tail')]).toEqual([8, 9]);
    expect([...file.readFloat32('w')]).toEqual([...SIX]);
  }
  expect(process.memoryUsage().rss - before).toBeLessThan(100e6);

  // The same as an archive: the small storage lies beyond 4 GiB, so all places need 64 bits.
  const big = at('large-zip.pt');
  const out = openSync(big, 'w');
  ftruncateSync(out, size);
  const entries = farZip(size);
  writeSync(out, entries.head, 0, entries.head.length, 0);
  writeSync(out, entries.tail, 0, entries.tail.length, size);
  closeSync(out);
  using file = TorchFile.open(big);
  expect([...file.readFloat32('w')]).toEqual([...SIX]);
});

/** An archive whose second entry and directory lie at `place`: its beginning and its end. */
function farZip(place: number): { head: Uint8Array; tail: Uint8Array } {
  const first = made.zip([{ name: 'm/data.pkl', data: pickle(dict(text('w'), tensor())) }]);
  const firstEnd = first.length - 22 - (46 + 'm/data.pkl'.length);
  const second = made.zip([{ name: 'm/data/0', data: bytes(SIX), zip64: true, place }]);
  const secondEnd = second.length - 22 - (46 + 'm/data/0'.length + 28);
  const directory = bytes(
    first.subarray(firstEnd, first.length - 22),
    second.subarray(secondEnd, second.length - 22),
  );
  const position = place + secondEnd;
  const end64 = bytes(
    ...['PK\x06\x06', made.u64(44), made.u16(45), made.u16(45), made.u32(0), made.u32(0)],
    ...[made.u64(2), made.u64(2), made.u64(directory.length), made.u64(position)],
    ...['PK\x06\x07', made.u32(0), made.u64(position + directory.length), made.u32(1)],
  );
  const end = bytes(
    'PK\x05\x06',
    made.u32(0),
    made.u16(2),
    made.u16(2),
    made.u32(directory.length),
    made.u32(0xffffffff),
    made.u16(0),
  );
  return {
    head: first.subarray(0, firstEnd),
    tail: bytes(second.subarray(0, secondEnd), directory, end64, end),
  };
}
