// The command sample from outside: records, files, streams, settings in pictures, errors, signals.
import { describe, expect, test } from 'bun:test';
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { unpackMultiple } from 'msgpackr';
import { parseParameters } from '../../../src/io/parameters.ts';
import { pngTextOf, readPngText } from '../../../src/io/png.ts';
import { at, folder, MAIN, sample } from './sample-command.ts';

describe('pictures', () => {
  test('one a prompt, with a record and its settings inside', () => {
    const { code, records, err } = sample(['a red apple', '-p', 'a fox', '--steps', '2', '-o', 'one']);
    expect(err).toBe('');
    expect(code).toBe(0);
    expect(records.map((r) => [r.index, r.prompt, r.file])).toEqual([
      [0, 'a fox', 'one/a-fox-0.png'],
      [1, 'a red apple', 'one/a-red-apple-0.png'],
    ]);
    expect(Object.keys(records[0]).join(' ')).toBe(
      'index prompt negative_prompt seed file width height steps cfg_scale sampler model seconds truncated',
    );
    expect(records[0]).toMatchObject({ seed: 0, steps: 2, cfg_scale: 5, sampler: 'heun', truncated: false });
    const { width, height, texts } = readPngText(at('one/a-red-apple-0.png'));
    expect([width, height]).toEqual([8, 8]);
    expect(texts.map((t) => t.keyword)).toEqual(['parameters', 'microdiff']);
    const shown = parseParameters('png', texts[0]!.text);
    expect(shown).toMatchObject({ prompt: 'a red apple', seed: 0, steps: 2, cfgScale: 5, width: 8 });
    expect(JSON.parse(texts[1]!.text)).toMatchObject({ model: 'm.safetensors', model_step: 5, scale: 1 });
  });

  test('--from repeats one to the byte; flags go before its settings', async () => {
    const how = [
      '--steps',
      '3',
      '--cfg-scale',
      '2.5',
      '-n',
      'blue',
      '-s',
      '9007199254740991',
      '--scale',
      '2',
    ];
    sample(['an owl', '-o', 'owl.png', ...how]);
    const { code } = sample(['--from', 'owl.png', '-o', 'again.png']);
    expect(code).toBe(0);
    expect(await Bun.file(at('again.png')).bytes()).toEqual(await Bun.file(at('owl.png')).bytes());
    const { records } = sample([
      '--from',
      'owl.png',
      '-o',
      'other.png',
      '--seed',
      '3',
      '-n',
      '',
      '--count',
      '1',
    ]);
    expect(records[0]).toMatchObject({ prompt: 'an owl', seed: 3, negative_prompt: '', steps: 3, width: 16 });
  });

  test('--sampler names the solver, and --from repeats it', async () => {
    const drawn = sample(['a fox', '--steps', '3', '--sampler', 'dpmpp2m', '-o', 'dpm.png']);
    expect(drawn.records[0].sampler).toBe('dpmpp2m');
    const { texts } = readPngText(at('dpm.png'));
    expect(parseParameters('png', texts[0]!.text).sampler).toBe('dpmpp2m');
    expect(JSON.parse(texts[1]!.text).sampler).toBe('dpmpp2m');
    expect(sample(['--from', 'dpm.png', '-o', 'dpm2.png']).err).toBe('');
    expect(readFileSync(at('dpm2.png'))).toEqual(readFileSync(at('dpm.png')));
    sample(['--from', 'dpm.png', '--sampler', 'heun', '-o', 'heun.png']);
    sample(['a fox', '--steps', '3', '-o', 'plain.png']);
    expect(readFileSync(at('heun.png'))).toEqual(readFileSync(at('plain.png')));
    expect(pixelPart(at('heun.png'))).not.toEqual(pixelPart(at('dpm.png')));
  });

  test('--guidance-interval stands in record and picture, and --from repeats it', () => {
    const how = ['a fox', '--steps', '3'];
    const drawn = sample([...how, '--guidance-interval', '0.1,10', '-o', 'interval.png']);
    expect([drawn.err, drawn.records[0].guidance_interval]).toEqual(['', [0.1, 10]]);
    sample(['--from', 'interval.png', '-o', 'interval2.png']);
    expect(readFileSync(at('interval2.png'))).toEqual(readFileSync(at('interval.png')));
    expect(pixelPart(at('interval.png'))).not.toEqual(pixelPart(at(sample(how).records[0].file)));
    const line = '{"prompt": "a fox", "guidance_interval": [0.1, 10]}';
    const { records } = sample(['--steps', '3', '-o', 'interval'], line);
    expect(pixelPart(at(records[0].file))).toEqual(pixelPart(at('interval.png')));
    expect(sample([...how, '--guidance-interval', '900,1000']).err).toBe(
      'warning: no noise level lies from 900 to 1000: nothing is guided\n',
    );
  });

  test('a run folder, several seeds, a sheet, larger pixels, a pattern', () => {
    const args = [
      'a fox',
      '--count',
      '3',
      '--steps',
      '1',
      '--scale',
      '4',
      '-o',
      'n/%02d.png',
      '--grid',
      'g.png',
    ];
    const { code, records, err } = sample(args, '', 'run');
    expect(code).toBe(0);
    expect(records.map((r) => [r.seed, r.file, r.width])).toEqual([
      [0, 'n/00.png', 32],
      [1, 'n/01.png', 32],
      [2, 'n/02.png', 32],
    ]);
    expect(err).toBe('sheet: g.png\n');
    expect(readPngText(at('g.png')).width).toBeGreaterThan(3 * 128);
  });

  test('on stdout: the PNG alone, or framed with its record', () => {
    const { stdout } = sample(['a fox', '--steps', '1', '-o', '-']);
    expect(pngTextOf(stdout, 'stdout').width).toBe(8);
    const packed = sample(['a fox', 'a cat', ' ', '--steps', '1', '--format', 'msgpack']);
    expect(packed.code).toBe(1);
    const values = unpackMultiple(packed.stdout) as { png: Uint8Array; file: null; error: string }[];
    const widths = values.map((v) => v.error ?? String(pngTextOf(v.png, 'msgpack').width));
    expect(widths).toEqual(['8', '8', 'the line is blank']);
    expect(values[0]!.png).toEqual(new Uint8Array(stdout));
    expect(values[0]!.file).toBeNull();
  });
});

describe('streams', () => {
  const lines = [
    '\uFEFFa red circle\r',
    '{"prompt": "a cat", "seed": 4, "steps": 2, "out": "sub/cat.png"}',
    '{"prompt": "a cat", "sede": 4}',
    '',
    'one two three four five six',
    '{broken',
    '{"prompt": "x", "out": "../x.png"}',
    'a red circle',
  ];

  test('a record a line, in order; bad lines do not harm the others', () => {
    const { code, records, err } = sample(
      ['--steps', '1', '-o', 'out', '--batch-size', '3'],
      lines.join('\n'),
    );
    expect(code).toBe(1);
    expect(records.map((r) => r.index)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    expect(records.map((r) => r.file ?? r.error)).toEqual([
      'out/000000-a-red-circle-0.png',
      'out/sub/cat.png',
      expect.stringContaining('unknown field "sede". Did you mean seed?'),
      'the line is blank',
      'out/000004-one-two-three-four-five-six-0.png',
      expect.stringContaining('broken JSON'),
      expect.stringContaining('out must be a .png name inside -o'),
      'out/000007-a-red-circle-0.png',
    ]);
    expect(records[1]).toMatchObject({ seed: 4, steps: 2 });
    expect(records[4].truncated).toBe(true);
    expect(err).toContain('warning: prompt 4 has more words than the model reads');
    expect(err).toContain('error: 4 of 8 pictures could not be made\n');
    expect(existsSync(at('x.png'))).toBe(false);
    const [first, last] = [records[0], records[7]].map((r) => pixelPart(at(r.file)));
    expect(first).toEqual(last!);
  });

  test('--plain takes braces as text; --dry-run prints what would be made', () => {
    const { records, code } = sample(['--plain', '--dry-run', '-o', 'dry', '--count', '2'], '{a}\nb\n');
    expect(code).toBe(0);
    expect(records.map((r) => [r.index, r.prompt, r.seed, r.file])).toEqual([
      [0, '{a}', 0, 'dry/000000-a-0.png'],
      [1, '{a}', 1, 'dry/000001-a-1.png'],
      [2, 'b', 0, 'dry/000002-b-0.png'],
      [3, 'b', 1, 'dry/000003-b-1.png'],
    ]);
    expect(existsSync(at('dry'))).toBe(false);
  });

  test('prompts from a column of a CSV', () => {
    const csv = 'id,text\n1,"a fox, red"\n2,\n3,{a}\n';
    const { code, records } = sample(['--column', 'text', '--steps', '1', '-o', 'csv'], csv);
    expect([code, records.map((r) => r.prompt ?? r.error)]).toEqual([
      1,
      ['a fox, red', 'the line is blank', '{a}'],
    ]);
    expect(sample(['--column', 'txt'], csv).err).toContain('the CSV has the columns id, text');
    expect(sample(['--column', 'text', '-p', 'x']).code).toBe(2);
    expect(sample(['--column', 'text', 'x.csv']).err).toContain('x.csv: cannot read: no such file');
  });

  test('a reader that goes ends it quietly', () => {
    const line = `"${process.execPath}" "${MAIN}" sample -m m.safetensors --steps 1 -o epipe | head -n 1`;
    const prompts = Array.from({ length: 40 }, (_, i) => `p${i}`).join('\n');
    const script = `set -o pipefail; ${line}; echo "code $?"`;
    const env = { ...process.env, FORCE_COLOR: '', MICRODIFF_DEVICE: 'cpu' };
    const options = { cwd: folder, env, stdin: Buffer.from(prompts) };
    const { stdout, stderr } = Bun.spawnSync(['bash', '-c', script], options);
    expect(stdout.toString().split('\n')[0]).toContain('"index":0');
    expect(stdout.toString()).toEndWith('code 0\n');
    expect(stderr.toString()).toBe('');
  });

  test('a signal ends it after the pictures in hand, also while it waits for prompts', async () => {
    for (const [signal, code] of [
      ['SIGINT', 130],
      ['SIGTERM', 143],
    ] as const) {
      const words = [MAIN, 'sample', '-m', 'm.safetensors', '--steps', '20', '-o', `signal-${code}`];
      const child = Bun.spawn([process.execPath, ...words], {
        cwd: folder,
        stdin: 'pipe',
        stdout: 'pipe',
        stderr: 'pipe',
      });
      child.stdin.write('a fox\n');
      child.stdin.flush();
      const reader = child.stdout.getReader();
      const first = new TextDecoder().decode((await reader.read()).value);
      child.kill(signal);
      expect(await child.exited).toBe(code);
      expect(JSON.parse(first).index).toBe(0);
      expect(readdirSync(at(`signal-${code}`))).toEqual(['000000-a-fox-0.png']);
      expect(await new Response(child.stderr).text()).toContain('ending after the pictures in hand');
    }
  });
});

describe('refusals', () => {
  test.each([
    [['-o', 'a.png', 'x', 'y'], 2, '2 pictures do not fit in one file'],
    [['-o', '-', 'x', 'y'], 2, '2 PNGs in one stream. Say --format tar or msgpack'],
    [['-o', '-'], 2, 'a stream of prompts makes more than one PNG'],
    [['--steps', '0', 'x'], 2, '--steps'],
    [['--cfg-scale', 'nan', 'x'], 2, '--cfg-scale'],
    [['--sampler', 'ddim', 'x'], 2, 'one of heun, euler, dpmpp2m'],
    [['--guidance-interval', '5,1', 'x'], 2, 'expected two noise levels in order'],
    [['--guidance-interval', 'x', 'x'], 2, 'expected a list of numbers'],
    [['--sed', '1', 'x'], 2, 'Did you mean --seed?'],
    [['--from', 'm.safetensors'], 1, 'neither a PNG nor a JSON record'],
    [['--from', 'none.png'], 1, 'none.png: cannot read'],
    [['--skip-existing', '-o', '-', 'x'], 2, 'has no files to look for'],
    [['--skip-existing', '--grid', 'g.png', 'x'], 2, 'would lack the pictures'],
    [['-o', 'm.safetensors', 'x'], 1, 'a file of this name is in the way'],
    [['-o', '/proc/nowhere/x', 'x'], 1, '/proc/nowhere/x: cannot make this folder'],
    [['--device', 'cuda:999', 'x'], 3, 'cannot load'],
    [['-o', '', 'x'], 2, '-o: is empty'],
    [['--grid', 'nowhere/g.png', 'x'], 2, 'there is no folder nowhere'],
    [['--clip', 'a.safetensors', 'x'], 2, 'holds its own encoder and needs no parts'],
  ] as const)('%j', (args, code, message) => {
    const result = sample(args);
    expect(result.err).toContain(message);
    expect(result.err.trimEnd().split('\n').length).toBe(1);
    expect([result.code, result.records.length]).toEqual([code, 0]);
  });

  test('models that are not there or no models', () => {
    expect(sample(['x'], '', 'nope').err).toContain('-m nope: neither a file nor a folder');
    writeFileSync(at('cut.safetensors'), 'xyz');
    expect(sample(['x'], '', 'cut.safetensors')).toMatchObject({
      code: 1,
      err: expect.stringContaining('cut.safetensors: not a safetensors file'),
    });
  });

  test('a folder that forbids writing', () => {
    mkdirSync(at('locked'));
    chmodSync(at('locked'), 0o555);
    const { code, err } = sample(['x', '--steps', '1', '-o', 'locked']);
    chmodSync(at('locked'), 0o755);
    if (process.getuid?.() === 0) return; // root may write anywhere
    expect([code, err]).toEqual([1, expect.stringContaining('permission denied')]);
  });

  test('pictures that are not finite are errors, not files', () => {
    const { code, records } = sample(['x', 'y', '--steps', '1', '-o', 'nan'], '', 'nan.safetensors');
    expect(code).toBe(1);
    expect(records.map((r) => r.error.slice(0, 25))).toEqual(Array(2).fill('the picture is not finite'));
    expect(readdirSync(at('nan'))).toEqual([]);
  });

  // A bare root has no terminals to open.
  test.skipIf(!existsSync('/dev/pts/ptmx'))(
    'pictures are not written on a terminal, and prompts not waited for at one',
    async () => {
      const onTerminal = async (...args: string[]) => {
        let said = '';
        const hear = (_: unknown, data: Uint8Array) => {
          said += new TextDecoder().decode(data);
        };
        const terminal = new Bun.Terminal({ data: hear });
        const words = [process.execPath, MAIN, 'sample', '-m', 'm.safetensors', ...args];
        const code = await Bun.spawn(words, { cwd: folder, terminal }).exited;
        await Bun.sleep(20);
        terminal.close();
        return { code, said };
      };
      expect(await onTerminal('x', '-o', '-')).toMatchObject({
        code: 2,
        said: expect.stringContaining('pictures are not for a terminal'),
      });
      expect(await onTerminal()).toMatchObject({
        code: 2,
        said: expect.stringContaining('there is no prompt'),
      });
    },
  );
});

/** The bytes from the pixels on: the texts before them may differ. */
function pixelPart(path: string): Uint8Array {
  const bytes = readFileSync(path);
  return bytes.subarray(bytes.indexOf('IDAT'));
}
