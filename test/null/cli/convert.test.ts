// convert, and info of checkpoints: what is written, what is said, and that nothing is left after a refusal.

import { afterAll, expect, test } from 'bun:test';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Safetensors } from '../../../src/io/safetensors.ts';
import {
  bytes,
  dict,
  global,
  pickle,
  put,
  tensor,
  text,
  torchLegacy,
  torchZip,
  tuple,
} from '../torch-case.ts';

const MAIN = join(import.meta.dir, '../../../src/cli/main.ts');
const GOLDENS = join(import.meta.dir, '../../goldens/microdit');
const folder = mkdtempSync(join(tmpdir(), 'convert-'));
afterAll(() => rmSync(folder, { recursive: true }));
const at = (name: string) => join(folder, name);
const run = (...args: string[]) => {
  const { exitCode, stdout, stderr } = Bun.spawnSync([process.execPath, MAIN, ...args], { cwd: folder });
  return { code: exitCode, out: stdout.toString(), err: stderr.toString() };
};

test('a checkpoint of Composer: the transformer, bit for bit', () => {
  const done = run('convert', join(GOLDENS, 'composer_ckpt.pt'), 'dit.safetensors');
  expect([done.code, done.out]).toEqual([0, '']);
  expect(done.err).toContain('took the tensors named dit.* and cut that off\n');
  expect(done.err).toContain('left out vae.decoder.conv_in.weight, vae.decoder.conv_in.bias, text_encoder');
  expect(done.err).toContain('dit.safetensors: 143 tensors, 0.2 MB\n');
  using made = Safetensors.open(at('dit.safetensors'));
  using want = Safetensors.open(join(GOLDENS, 'nano_bias.weights.safetensors'));
  expect([...made.tensors.keys()].sort()).toEqual([...want.tensors.keys()].sort());
  for (const name of want.tensors.keys()) expect(made.readTensor(name)).toEqual(want.readTensor(name));
  expect(Object.fromEntries(made.metadata)).toEqual({ format: 'pt' });
  expect(readdirSync(folder)).toEqual(['dit.safetensors']);
});

test('a legacy file to bfloat16 and back, over itself', () => {
  expect(run('convert', join(GOLDENS, 'torch_legacy.pt'), 'b.safetensors', '--dtype', 'bf16').code).toBe(0);
  const before = readFileSync(at('b.safetensors'));
  expect(run('convert', 'b.safetensors', 'b.safetensors', '--dtype', 'f32').code).toBe(0);
  using made = Safetensors.open(at('b.safetensors'));
  using want = Safetensors.open(join(GOLDENS, 'nano_bias.weights.safetensors'));
  expect(readFileSync(at('b.safetensors')).length).toBeGreaterThan(1.8 * before.length);
  for (const name of want.tensors.keys()) {
    const [ours, theirs] = [made.readFloat32(name), want.readFloat32(name)];
    expect(ours.every((value, i) => Math.abs(value - theirs[i]!) <= Math.abs(theirs[i]!) / 256)).toBe(true);
  }
});

test('types, places, prefixes', () => {
  const net = dict(
    ...[text('a.w'), tensor({ kind: 'DoubleStorage', held: 2, shape: [2], strides: [1] })],
    ...[text('a.n'), tensor({ key: '1', kind: 'LongStorage', held: 2, shape: [2], strides: [1] })],
    ...[text('b'), tensor({ key: '1', kind: 'LongStorage', held: 2, shape: [2], strides: [1] })],
  );
  const storages = { '0': Float64Array.of(1 + 2 ** -30, 60000), '1': BigInt64Array.of(1n, -(2n ** 60n)) };
  put(at('t.pt'), torchZip(pickle(dict(text('net'), net)), storages));
  const convert = (...flags: string[]) => run('convert', 't.pt', 't.safetensors', '--take', 'net', ...flags);
  expect(run('convert', 't.pt', 't.safetensors').err).toContain('no tensors in the usual places');
  expect(convert('--dtype', 'f16', '--prefix', 'a.').code).toBe(0);
  using made = Safetensors.open(at('t.safetensors'));
  expect([...made.tensors.values()].map(({ name, dtype }) => `${name} ${dtype}`)).toEqual(['n I64', 'w F16']);
  expect([...made.readFloat32('w')]).toEqual([1, 60000]);
  expect(made.readTensor('n').bytes).toEqual(bytes(storages['1']));
  expect(convert('--prefix', 'c.').err).toContain('no name begins with "c."');
  expect(convert('--prefix', 'b').err).toContain('tensor "b" would be named ""');
});

test('a number that the format cannot hold is named; no file appears', () => {
  const w = dict(text('w'), tensor({ held: 2, shape: [2], strides: [1] }));
  put(at('large.pt'), torchLegacy(pickle(w), [['0', 2, Float32Array.of(1, -70000)]]));
  const half = run('convert', 'large.pt', 'large.safetensors', '--dtype', 'f16');
  expect(half.code).toBe(1);
  expect(half.err).toBe(
    'error: large.pt: tensor "w" holds -70000, which F16 cannot hold. Use --dtype bf16 or f32\n',
  );
  expect(readdirSync(folder).filter((name) => name.includes('large.safetensors'))).toEqual([]);
  expect(run('convert', 'large.pt', 'large.safetensors', '--dtype', 'bf16').code).toBe(0);
});

test('refusals: one line, exit code, nothing left behind', () => {
  put(at('hostile.pt'), torchZip(pickle(global('os', 'system'), tuple(text('touch ran')), 'R')));
  const bad = join(GOLDENS, 'hostile_badcrc.pt');
  const cut = readFileSync(join(GOLDENS, 'torch_legacy.pt'));
  put(at('cut.pt'), cut.subarray(0, cut.length * 0.6));
  put(at('empty.pt'), bytes());
  mkdirSync(at('folder.pt'));
  const cases: [string, number, string][] = [
    ['hostile.pt', 1, 'hostile.pt: its pickle names os.system, which is not data. Nothing in it was run'],
    [bad, 1, 'the checksum of "archive/data/0" does not fit its bytes (CRC-32)'],
    ['cut.pt', 1, 'truncated'],
    ['empty.pt', 1, 'empty.pt: the file is empty'],
    ['folder.pt', 1, 'folder.pt: this is a folder, not a file'],
    ['absent.pt', 1, 'no such file'],
  ];
  const before = readdirSync(folder).sort();
  for (const [file, code, why] of cases) {
    const { err, ...done } = run('convert', file, 'x.safetensors');
    expect(done).toEqual({ code, out: '' });
    expect(err).toContain(why);
    expect(err.split('\n').filter((line) => line.startsWith('error: '))).toHaveLength(1);
  }
  expect(run('convert', 'cut.pt', 'x.pt')).toMatchObject({ code: 2 });
  expect(run('convert', 'cut.pt')).toMatchObject({ code: 2 });
  expect(run('convert', 'cut.pt', 'y.safetensors', '--dtype', 'f8')).toMatchObject({ code: 2 });
  expect(run('convert', join(GOLDENS, 'torch_zip.pt'), 'none/y.safetensors')).toMatchObject({ code: 1 });
  expect(readdirSync(folder).sort()).toEqual(before);
});

test('info of checkpoints', () => {
  const composer = JSON.parse(run('info', join(GOLDENS, 'composer_ckpt.pt'), '--json', '--tensors').out);
  expect(composer).toMatchObject({
    ...{
      kind: 'model',
      format: 'torch (zip)',
      place: 'state.model',
      tensors: 146,
      dtypes: { F32: 145, BF16: 1 },
    },
    guess: { what: 'MicroDiT', preset: null, prefix: 'dit.', depth: 3, in_channels: 4 },
  });
  expect(composer.list[0]).toEqual({ name: 'dit.pos_embed', dtype: 'F32', shape: [1, 16, 16] });
  const legacy = run('info', join(GOLDENS, 'torch_legacy.pt'));
  expect(legacy.out).toContain('\nformat      torch (legacy)\n');
  expect(run('info', join(GOLDENS, 'hostile_reduce.pt'))).toMatchObject({ code: 1, out: '' });
  put(at('model.dat'), torchLegacy(pickle(dict(text('w'), tensor())), [['0', 6, new Float32Array(6)]]));
  expect(JSON.parse(run('info', 'model.dat', '--json').out)).toMatchObject({
    numbers: 6,
    guess: { what: 'unknown' },
  });
});

test('stopped, a conversion leaves nothing; what a killed one left goes with the next', async () => {
  const count = 2 ** 24;
  const large = join(folder, 'large.pt');
  const made = tensor({ held: count, shape: [count], strides: [1] });
  put(large, torchZip(pickle(dict(text('w'), made)), { '0': new Float32Array(count) }));
  mkdirSync(at('stopped'));
  const begun = async () => {
    const words = [process.execPath, MAIN, 'convert', large, 'stopped/x.safetensors'];
    const child = Bun.spawn(words, { cwd: folder, stderr: 'pipe' });
    while (readdirSync(at('stopped')).length === 0 && child.exitCode === null) await Bun.sleep(1);
    return child;
  };
  const child = await begun();
  child.kill('SIGTERM');
  expect(await child.exited).toBe(143);
  expect(await new Response(child.stderr).text()).toContain('stopping; stopped/x.safetensors is not written');
  expect(readdirSync(at('stopped'))).toEqual([]);
  const killed = await begun();
  killed.kill('SIGKILL');
  await killed.exited;
  expect(readdirSync(at('stopped'))).toHaveLength(1);
  expect(run('convert', large, 'stopped/y.safetensors').code).toBe(0);
  expect(readdirSync(at('stopped'))).toEqual(['y.safetensors']);
  rmSync(large);
});

test('pipes, pointers and web pages in place of a file are told as what they are', () => {
  Bun.spawnSync(['mkfifo', at('pipe')]);
  put(at('pointer.bin'), bytes('version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 4\n'));
  put(at('page.safetensors'), bytes('<!DOCTYPE html><html>404</html>'));
  for (const [name, why] of [
    ['pipe', 'this is not a regular file'],
    ['pointer.bin', 'a pointer of Git LFS'],
    ['page.safetensors', 'a web page, not weights'],
  ] as const) {
    for (const words of [['info'], ['convert', 'no.safetensors']]) {
      const [command = '', ...rest] = words;
      const { code, out, err } = run(command, name, ...rest);
      expect([code, out, err.trim().split('\n').length]).toEqual([1, '', 1]);
      expect(err).toContain(why);
    }
  }
});
