// `verify` on folders that are not as they should be: files missing, cut off, contradictory or hostile. Each
// ends in a failed or skipped line that names the thing, and the exit code that says so.
import { afterAll, describe, expect, test } from 'bun:test';
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { TRAINING } from '../../src/cli/verify.ts';
import type { GroupResult } from '../../src/eval/conformance.ts';
import { verifyMicrodit } from '../../src/eval/microdit.ts';
import { Safetensors } from '../../src/io/safetensors.ts';
import { writeSafetensors } from '../../src/io/safetensors_write.ts';
import { bothBackends } from './op-case.ts';

const GOLDENS = new URL('../goldens/microdit', import.meta.url).pathname;
const MAIN = new URL('../../src/cli/main.ts', import.meta.url).pathname;
const root = mkdtempSync(join(tmpdir(), 'verify-'));
afterAll(() => rmSync(root, { recursive: true }));

let folders = 0;

/** A new folder with copies of some golden files. */
function copies(keep: (file: string) => boolean): string {
  const folder = join(root, String(folders++));
  mkdirSync(folder);
  for (const file of readdirSync(GOLDENS).filter(keep)) {
    copyFileSync(join(GOLDENS, file), join(folder, file));
  }
  return folder;
}

const SMALL = /^nano_bias\.(info|weights|forward|train|activations|grads_mask75)\./;
const small = () => copies((file) => SMALL.test(file));

const run = (dir: string): GroupResult[] => [
  ...verifyMicrodit(dir, { backend: bothBackends().f32, training: TRAINING }),
];
const failed = (dir: string) => run(dir).filter(({ status }) => status === 'fail');

type Json = Record<string, unknown>;

function editInfo(dir: string, edit: (info: Record<string, Json>) => void): void {
  const path = join(dir, 'nano_bias.info.json');
  const info = JSON.parse(readFileSync(path, 'utf8'));
  edit(info);
  writeFileSync(path, JSON.stringify(info));
}

/** Rewrites a file with some of its tensors changed; null leaves one out. */
function editTensors(
  path: string,
  edit: Record<string, ((bytes: Uint8Array) => ArrayBufferView) | null>,
): void {
  using file = Safetensors.open(path);
  const tensors = [...file.tensors.values()].flatMap(({ name, dtype, shape }) => {
    const change = edit[name];
    if (change === null) return [];
    const { bytes } = file.readTensor(name);
    return [{ name, dtype, shape, data: change ? change(bytes) : bytes }];
  });
  writeSafetensors(path, tensors);
}

const f32 = (change: (v: Float32Array) => void) => (bytes: Uint8Array) => {
  const values = new Float32Array(bytes.buffer as ArrayBuffer);
  change(values);
  return values;
};

describe('parts of a set', () => {
  test('what a set lacks is not checked', () => {
    const groups = (keep: (file: string) => boolean) => {
      const results = run(copies(keep));
      expect(results.filter(({ status }) => status === 'fail')).toEqual([]);
      return results.map(({ group }) => group);
    };
    const with_ = (...parts: string[]) => {
      const names = ['info', 'weights', ...parts].map((part) => `nano_bias.${part}.`);
      return groups((file) => names.some((name) => file.startsWith(name)));
    };
    expect(with_()).toEqual(['nano_bias shapes']);
    expect(with_('forward')).toEqual(['nano_bias shapes', 'nano_bias outputs']);
    expect(with_('grads_mask75')).toEqual(['nano_bias shapes']);
    expect(with_('train')).toEqual([
      'nano_bias shapes',
      ...['nano_bias mask0 denoiser', 'nano_bias mask0 losses, norms', 'nano_bias mask0 gradients'],
      ...['nano_bias mask75 denoiser', 'nano_bias mask75 losses, norms', 'nano_bias mask75 gradients'],
    ]);
    expect(groups((file) => file === 'lr_schedules.json')).toEqual(['learning rates']);
    expect(groups((file) => file === 'pos_embed.safetensors')).toEqual(['positions']);
  });

  test('a set without weights is skipped', () => {
    const dir = copies((file) => file === 'manifest.json' || file === 'nano.info.json');
    expect(run(dir).map(({ group, status }) => [group, status])).toEqual([
      ['nano', 'skipped'],
      ['nano_bias', 'skipped'],
    ]);
  });

  test('masks, steps and rates come from the files', () => {
    const dir = copies((file) => /^nano_bias\.(info|weights|train|grads_mask75|step1_mask75)\./.test(file));
    const old = join(dir, 'nano_bias.');
    editInfo(dir, ({ train }) => {
      train!.mask50 = train!.mask75;
      delete train!.mask75;
    });
    for (const kind of ['grads', 'step1']) {
      copyFileSync(`${old}${kind}_mask75.safetensors`, `${old}${kind}_mask50.safetensors`);
      rmSync(`${old}${kind}_mask75.safetensors`);
    }
    const results = run(dir);
    expect(results.filter(({ status }) => status !== 'pass')).toEqual([]);
    expect(results.map(({ group }) => group)).toContain('nano_bias mask50 parameters, 99.9 %');
  });
});

describe('one wrong number', () => {
  const weights = 'blocks.1.mlp.w2';
  test.each([
    ['forward', 'out_nomask', 'nano_bias outputs'],
    ['forward', 'D_x_mask75', 'nano_bias outputs'],
    ['activations', 'blocks.2.attn', 'nano_bias activations'],
    ['train', 'x_noisy', 'nano_bias mask0 denoiser'],
    ['train', 'per_sample_loss_mask75', 'nano_bias mask75 losses, norms'],
    ['grads_mask75', weights, 'nano_bias mask75 gradients'],
  ])('%s %s', (file, tensor, group) => {
    const dir = small();
    const largest = (v: Float32Array) => v.reduce((at, x, i) => (Math.abs(x) > Math.abs(v[at]!) ? i : at), 0);
    editTensors(join(dir, `nano_bias.${file}.safetensors`), {
      [tensor]: f32((v) => {
        v[largest(v)]! *= 1.001;
      }),
    });
    const groups = failed(dir).map((result) => result.group);
    expect(groups).toContain(group);
  });

  test('a selection of an expert', () => {
    const dir = small();
    const path = join(dir, 'nano_bias.activations.safetensors');
    editTensors(path, {
      'blocks.1.mlp.topk_indices': (bytes) => {
        const tokens = new BigInt64Array(bytes.buffer as ArrayBuffer);
        tokens[0] = (tokens[0]! + 1n) % 4n;
        return tokens;
      },
    });
    expect(failed(dir).map(({ group, error }) => [group, error])).toEqual([['nano_bias routing', 1]]);
  });

  test('NaN in the weights', () => {
    const dir = small();
    editTensors(join(dir, 'nano_bias.weights.safetensors'), {
      'x_embedder.proj.bias': f32((v) => v.fill(Number.NaN)),
    });
    const groups = failed(dir).map(({ group }) => group);
    expect(groups).toContain('nano_bias outputs');
    expect(groups).toContain('nano_bias mask0 gradients');
  });
});

describe('broken and hostile files', () => {
  /** Breaks a small set and returns the notes of what failed. */
  const notes = (breakIt: (dir: string) => void) => {
    const dir = small();
    breakIt(dir);
    const results = failed(dir);
    expect(results.length).toBeGreaterThan(0);
    for (const { error, note } of results) if (error === null) expect(note).not.toInclude('\n');
    return results.map(({ note }) => note).join('\n');
  };
  const path = (dir: string, part: string) => join(dir, `nano_bias.${part}`);

  test.each(['weights', 'forward', 'train', 'activations', 'grads_mask75'])('%s cut off', (part) => {
    const file = `nano_bias.${part}.safetensors`;
    expect(notes((dir) => truncateSync(join(dir, file), 10_000))).toInclude(file);
  });

  test('info.json', () => {
    const broken = notes((dir) => writeFileSync(path(dir, 'info.json'), '{"config": '));
    expect(broken).toInclude('nano_bias.info.json: broken JSON');
    const info = (edit: (info: Record<string, Json>) => void) => notes((dir) => editInfo(dir, edit));
    expect(info(({ config }) => Object.assign(config!, { dim: 'wide' }))).toInclude(
      'expected a whole number',
    );
    expect(info(({ config }) => Object.assign(config!, { depth: 1e12 }))).toInclude('more blocks');
    expect(info(({ config }) => Object.assign(config!, { num_experts: 1e9 }))).toInclude('has shape');
    expect(info(({ config }) => Object.assign(config!, { head_dim: 3 }))).toInclude('head_dim');
    expect(info(({ config }) => Object.assign(config!, { expert_capacity: 99 }))).toInclude(
      'expert_capacity',
    );
    expect(info(({ train }) => Object.assign(train!, { mask75: 7 }))).toInclude('must be a JSON object');
    expect(info((all) => Object.assign(all, { P_mean: null }))).toInclude('P_mean');
    expect(
      info(({ train }) => Object.assign(train!.mask0 as Json, { loss_after_99999999_steps: 1 })),
    ).toInclude('too many');
    expect(info((all) => Object.assign(all, { parameters: 5 }))).toInclude('number of parameters');
    expect(info(({ hyper }) => Object.assign(hyper!, { lr: '1' }))).toInclude('must be a number');
  });

  test('kept tokens outside the image or named twice', () => {
    for (const value of [-1n, 16n, 2n ** 31n]) {
      const edit = (bytes: Uint8Array) => new BigInt64Array(bytes.buffer as ArrayBuffer).fill(value, 0, 1);
      for (const part of ['forward', 'train']) {
        const said = notes((dir) => editTensors(path(dir, `${part}.safetensors`), { ids_keep: edit }));
        expect(said).toInclude('ids_keep');
      }
    }
    const twice = (bytes: Uint8Array) => new BigInt64Array(bytes.buffer as ArrayBuffer).fill(3n);
    expect(notes((dir) => editTensors(path(dir, 'train.safetensors'), { ids_keep: twice }))).toInclude(
      'distinct',
    );
  });

  test('tensors missing or of another model', () => {
    const without = (part: string, name: string) =>
      notes((dir) => editTensors(path(dir, `${part}.safetensors`), { [name]: null }));
    expect(without('weights', 'mask_token')).toInclude('mask_token is missing');
    expect(without('forward', 'y')).toInclude('"y" is missing');
    expect(without('train', 'noise')).toInclude('"noise" is missing');
    const add = (dir: string) => {
      const tensor = { name: 'blocks.9.attn', dtype: 'F32' as const, shape: [1], data: new Float32Array(1) };
      writeSafetensors(path(dir, 'grads_mask75.safetensors'), [tensor]);
      writeSafetensors(path(dir, 'activations.safetensors'), [tensor]);
    };
    expect(notes(add)).toMatch(/no such value[\s\S]*blocks\.9\.attn/);
  });

  test('files beside the sets', () => {
    const spoil = (file: string, text: string) => {
      const dir = copies((name) => name === file);
      writeFileSync(join(dir, file), text);
      return failed(dir)
        .map(({ note }) => note)
        .join();
    };
    expect(spoil('model_shapes.json', '{"MicroDiT_9": {}}')).toInclude('is no preset');
    expect(spoil('model_shapes.json', '{"MicroDiT_Tiny_2": {"args": {"depth": 1e9}}}')).not.toBe('');
    expect(spoil('model_shapes.json', '{"MicroDiT_Tiny_2": {"parameters": 3}}')).toBe('MicroDiT_Tiny_2');
    expect(spoil('lr_schedules.json', '{"a": {"kind": "Cubic"}}')).toInclude('no known schedule');
    expect(spoil('lr_schedules.json', '[]')).toInclude('must be a JSON object');
    expect(spoil('init_stats.json', '{"x": {}}')).toInclude('is no preset');
    expect(spoil('pos_embed.safetensors', 'nothing')).toInclude('pos_embed.safetensors');
  });

  test('a manifest that leads out of the folder', () => {
    const dir = small();
    writeFileSync(join(dir, 'manifest.json'), '{"models": ["../0/nano"]}');
    expect(failed(dir)[0]?.note).toInclude('is no name of a set');
  });
});

describe('command', () => {
  const microdiff = (...args: string[]) => {
    const device = args.includes('--device') ? [] : ['--device', 'cpu'];
    const { exitCode, stdout, stderr } = Bun.spawnSync([
      process.execPath,
      MAIN,
      'verify',
      ...args,
      ...device,
    ]);
    return { code: exitCode, out: stdout.toString(), err: stderr.toString() };
  };

  test('table, JSON and exit codes', () => {
    const dir = small();
    const good = microdiff(dir);
    expect(good.code).toBe(0);
    expect(good.out).toMatch(/^group +largest error +bound +result +worst\n/);
    expect(good.out).toMatch(/^nano_bias outputs +\d\.\de-7 +1\.0e-5 +pass +out_/m);
    const json = microdiff(dir, '--json');
    const report = JSON.parse(json.out);
    expect(Object.keys(report)).toEqual(['device', 'groups', 'passed']);
    expect([json.code, report.passed, report.groups.length]).toEqual([0, true, 10]);

    rmSync(join(dir, 'nano_bias.weights.safetensors'));
    const nothing = microdiff(dir);
    expect(nothing.code).toBe(1);
    expect(nothing.err).toInclude('nothing could be checked');
    expect(JSON.parse(microdiff(dir, '--json').out).passed).toBe(false);
  }, 300_000);

  test('a failed group', () => {
    const dir = copies((file) => file === 'lr_schedules.json');
    const path = join(dir, 'lr_schedules.json');
    writeFileSync(path, readFileSync(path, 'utf8').replace('0.9999999999730123', '0.9999999999'));
    const { code, out, err } = microdiff(dir);
    expect(code).toBe(1);
    expect(out).toMatch(/^learning rates +7\.\de-11 +1\.0e-12 +fail +res_256_pretrain multiplier\[12\]$/m);
    expect(err).toInclude('1 of 1 groups failed');
  });

  test('folders that cannot be checked, devices that cannot be had', () => {
    const empty = copies(() => false);
    for (const [dir, words] of [
      [empty, 'holds no golden files'],
      [join(root, 'nowhere'), basename('nowhere')],
    ] as const) {
      const { code, err } = microdiff(dir);
      expect([code, err.trim().split('\n').length]).toEqual([1, 1]);
      expect(err).toInclude(words);
    }
    expect(microdiff(empty, '--device', 'cuda').code).toBe(3);
    writeFileSync(join(empty, 'manifest.json'), '{"part": "fid"}');
    const nothing = microdiff(empty);
    expect([nothing.code, nothing.err]).toEqual([1, expect.stringContaining('nothing could be checked')]);
    writeFileSync(join(empty, 'manifest.json'), '{"part": "tokenizer"}');
    expect(microdiff(empty).out).toMatch(/^tokenizer .*fail .*captions\.jsonl/m);
    writeFileSync(join(empty, 'captions.jsonl'), '{"text": "a cat", "ids": [49406, 320, 2368, 5]}\n{');
    expect(microdiff(empty).out).toMatch(/^tokenizer .*fail .*captions\.jsonl:2: broken JSON/m);
    writeFileSync(join(empty, 'captions.jsonl'), '{"text": "a cat", "ids": [49406, 320, 2368, 5]}');
    expect(microdiff(empty).out).toMatch(/^token ids +1\.0e\+0 +0 +fail +"a cat"$/m);
  }, 300_000);
});

describe('in bfloat16', () => {
  const { f32 } = bothBackends();
  const rounded = (dir: string) => [
    ...verifyMicrodit(dir, { backend: f32, recorder: f32, training: TRAINING }),
  ];
  const OUTPUTS = 'nano_bias outputs';

  test('choices are recorded in float32 and forced; a free choice is counted', () => {
    const groups = rounded(small());
    expect(groups.every(({ status }) => status === 'pass')).toBe(true);
    expect(groups.map(({ group }) => group)).toEqual([
      OUTPUTS,
      'nano_bias activations',
      'nano_bias free routing',
      'nano_bias mask75 gradients',
    ]);
    expect(groups[2]!.note).toMatch(/^0 of [1-9]\d* choices differ$/);
  });

  test('an output that is off by a twentieth, and a gradient of another direction, fail', () => {
    const dir = small();
    editTensors(join(dir, 'nano_bias.forward.safetensors'), {
      out_nomask: (bytes) => new Float32Array(bytes.slice().buffer).map((v) => 1.05 * v),
    });
    editTensors(join(dir, 'nano_bias.grads_mask75.safetensors'), {
      'blocks.0.attn.qkv.weight': (bytes) => new Float32Array(bytes.slice().buffer).reverse(),
    });
    const failures = rounded(dir).filter(({ status }) => status === 'fail');
    expect(failures.map(({ group }) => group)).toEqual([OUTPUTS, 'nano_bias mask75 gradients']);
  });
});
