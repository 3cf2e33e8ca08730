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
    writeFileSync(at('run/metrics.jsonl'), '{"step":1,"loss":0.5}\n{"step":8,"loss":"NaN"}\n');
    writeFileSync(at('run/latest'), 'step-8\n');
    expect(describe(at('run'), false)).toEqual({
      kind: 'run',
      file: at('run'),
      records: 2,
      last: { step: 8, loss: 'NaN' },
      checkpoints: ['step-8'],
      latest: 'step-8',
    });
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
