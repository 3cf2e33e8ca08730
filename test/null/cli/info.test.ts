// info: model files, pictures, runs; and what it says of everything else.

import { afterAll, describe as group, expect, test } from 'bun:test';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe } from '../../../src/cli/info.ts';
import { encodePng } from '../../../src/io/png.ts';
import { writeSafetensors } from '../../../src/io/safetensors_write.ts';

const MAIN = `${import.meta.dir}/../../../src/cli/main.ts`;
const folder = mkdtempSync(join(tmpdir(), 'info-'));
afterAll(() => rmSync(folder, { recursive: true }));

const at = (name: string) => join(folder, name);
const run = (...args: string[]) => {
  const { exitCode, stdout, stderr } = Bun.spawnSync([process.execPath, MAIN, 'info', ...args]);
  return { code: exitCode, out: stdout.toString(), err: stderr.toString() };
};

group('info', () => {
  test('a model file', () => {
    const values = new Float32Array([1, 2, 3, 4, 5, 6]);
    writeSafetensors(
      at('m.safetensors'),
      [
        { name: 'w', dtype: 'F32', shape: [2, 3], data: values },
        { name: 'b', dtype: 'F32', shape: [3], data: values.subarray(3) },
      ],
      { metadata: { step: '8' } },
    );
    expect(describe(at('m.safetensors'), true)).toMatchObject({
      kind: 'model',
      tensors: 2,
      numbers: 9,
      dtypes: { F32: 2 },
      metadata: { step: '8' },
      list: expect.arrayContaining([{ name: 'w', dtype: 'F32', shape: [2, 3] }]),
    });
    const { out } = run(at('m.safetensors'), '--tensors');
    expect(out).toContain('\nnumbers     9\n');
    expect(out).toContain('\n  w  F32 [2, 3]');
  });

  test('a picture', () => {
    const png = encodePng({ width: 2, height: 1, channels: 3, data: new Uint8Array(6) }, [
      { keyword: 'parameters', text: 'a red apple\nSteps: 30' },
    ]);
    writeFileSync(at('a.png'), png);
    const found = JSON.parse(run(at('a.png'), '--json').out);
    expect(found).toMatchObject({ kind: 'picture', width: 2, height: 1 });
    expect(found.texts.parameters).toBe('a red apple\nSteps: 30');
  });

  test('a run', () => {
    mkdirSync(at('run/checkpoints/step-8'), { recursive: true });
    writeFileSync(
      at('run/metrics.jsonl'),
      '{"step":1,"loss":0.5}\n{"step":8,"loss":"NaN","val_levels":[{"sigma":1}]}\n',
    );
    writeFileSync(at('run/latest'), 'step-8\n');
    expect(describe(at('run'), false)).toEqual({
      kind: 'run',
      file: at('run'),
      records: 2,
      last: { step: 8, loss: 'NaN', val_levels: [{ sigma: 1 }] },
      checkpoints: ['step-8'],
      latest: 'step-8',
    });
    expect(run(at('run')).out).toContain('  val_levels: [{"sigma":1}]\n');
    expect(run(at('run')).out).toContain('\nlatest      step-8\n');
  });

  test('everything else', () => {
    writeFileSync(at('x.txt'), '');
    expect(run(at('x.txt'))).toMatchObject({ code: 2, out: '' });
    expect(run(at('none.png')).code).toBe(1);
    expect(run(at('none.png')).err).toContain('none.png');
    mkdirSync(at('empty'));
    expect(run(at('empty')).err).toContain('neither recipe.toml nor metrics.jsonl');
    writeFileSync(at('bad.safetensors'), 'xx');
    expect(run(at('bad.safetensors')).code).toBe(1);
  });
});

group('info --plan', () => {
  test('prints every op and the arena map, without the native library', () => {
    const { code, out, err } = run('--plan', '--preset', 'nano', '--batch', '2');
    expect([code, err]).toEqual([0, '']);
    expect(out.match(/^plan \S+: \d+ ops, [\d.]+ GFLOP/gm)).toHaveLength(3);
    expect(out.includes(' = attention_bwd(')).toBe(true);
    expect(out).toMatch(/^ +0 \+\d+ {2}\S+%\d+ {2}ops \d+\.\.\d+$/m);
  });

  test('--json: the same as data; batch and mask are those of the flags', () => {
    const { code, out } = run('--plan', '--preset', 'nano', '--batch', '3', '--mask', '0.5', '--json');
    expect(code).toBe(0);
    const found = JSON.parse(out);
    expect(found).toMatchObject({ kind: 'plan', model: 'nano', batch: 3, passes: 1, mask_ratio: 0.5 });
    const [micro, update, forward] = found.plans;
    expect([micro.name, update.name, forward.name]).toEqual(['micro-step', 'update', 'forward']);
    const gather = micro.ops.find(({ op }: { op: string }) => op === 'gather_rows');
    expect(gather.outputs[0].shape).toEqual([3, 8, 24]);
    const ends = micro.arena.map(({ offset, bytes }: { offset: number; bytes: number }) => offset + bytes);
    expect(Math.max(...ends)).toBeLessThanOrEqual(micro.space_bytes.arena);
  });

  test('a run folder is planned by its recipe', () => {
    mkdirSync(at('planned'));
    writeFileSync(
      join(at('planned'), 'recipe.toml'),
      '[model]\npreset = "nano"\n[train]\nbatch_size = 4\nmicro_batch = 2\n[[stage]]\nsteps = 5\n',
    );
    const { code, out, err } = run('--plan', at('planned'), '--json');
    expect([code, err]).toEqual([0, '']);
    expect(JSON.parse(out)).toMatchObject({ batch: 2, passes: 2, mask_ratio: 0 });
  });

  test.each([
    [['--mask', '0.5', 'x.png'], '--mask: says what to plan'],
    [[], 'file: missing'],
    [['--plan', '--recipe', 'tiny', 'runs/x'], '--recipe: given together with runs/x'],
  ])('%j is refused, exit 2', (args, message) => {
    const { code, out, err } = run(...args);
    expect([code, out]).toEqual([2, '']);
    expect(err).toContain(message);
  });
});
