// Streams of sample: tar archives on stdout that system tar reads, also after a signal; prompts from Parquet.
import { describe, expect, test } from 'bun:test';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { parquetWriteBuffer } from 'hyparquet-writer';
import { at, folder, MAIN, sample } from './sample-command.ts';

/** Unpacks with system tar; what it lists, in order. */
function untar(archive: Uint8Array, into: string): string[] {
  mkdirSync(at(into));
  const options = { stdin: Buffer.from(archive), cwd: at(into) };
  const { exitCode, stdout, stderr } = Bun.spawnSync(['tar', '-xvf', '-'], options);
  expect([exitCode, stderr.toString()]).toEqual([0, '']);
  return stdout.toString().trimEnd().split('\n').filter(Boolean);
}

const json = (...names: string[]) => JSON.parse(readFileSync(at(...names), 'utf8'));

describe('tar', () => {
  test('a PNG and its record for each picture, an error in its place', () => {
    const lines = [
      'a fox',
      '',
      '{"prompt": "a cat", "out": "../x"}',
      '{"prompt": "a cat", "out": "my/Cat.png"}',
    ];
    const args = ['--steps', '1', '--format', 'tar'];
    const { code, stdout, err } = sample(args, lines.join('\n'));
    expect([code, err]).toEqual([1, 'error: 2 of 4 pictures could not be made\n']);
    expect(untar(stdout, 'tar')).toEqual([
      ...['000000-a-fox-0.png', '000000-a-fox-0.json', '000001-error.json', '000002-error.json'],
      ...['000003-my-cat.png', '000003-my-cat.json'],
    ]);
    expect(json('tar', '000001-error.json')).toEqual({ index: 1, error: 'the line is blank' });
    expect(json('tar', '000003-my-cat.json')).toMatchObject({ index: 3, file: '000003-my-cat.png' });
    const alone = sample(['a fox', '--steps', '1', '-o', '-']).stdout;
    expect(readFileSync(at('tar/000000-a-fox-0.png'))).toEqual(Buffer.from(alone));
    expect(sample(['x', '--format', 'tar', '-o', 'dir']).err).toContain('Leave one out');
  });

  test.each(['once', 'twice'])('a signal (%s) leaves a whole archive', async (times) => {
    const words = [
      MAIN,
      'sample',
      '-m',
      'm.safetensors',
      '--steps',
      '2',
      '--format',
      'tar',
      '--batch-size',
      '1',
    ];
    const env = { ...process.env, MICRODIFF_DEVICE: 'cpu' };
    const child = Bun.spawn([process.execPath, ...words], {
      ...{ cwd: folder, env },
      ...{ stdin: 'pipe', stdout: 'pipe', stderr: 'ignore' },
    });
    child.stdin.write('a fox\n'.repeat(2000));
    child.stdin.flush();
    const chunks: Uint8Array[] = [];
    for await (const chunk of child.stdout) {
      chunks.push(chunk);
      if (chunks.length === 3) child.kill('SIGTERM');
      if (chunks.length === 4 && times === 'twice') child.kill('SIGTERM');
    }
    expect(await child.exited).toBe(143);
    const archive = Buffer.concat(chunks);
    expect(archive.subarray(-1024).every((byte) => byte === 0)).toBe(true);
    const names = untar(archive, `signal-${times}`);
    expect(names.length).toBeGreaterThanOrEqual(4);
    expect(names.length % 2).toBe(0);
    expect(names.filter((name) => name.endsWith('.png')).length).toBe(names.length / 2);
  });
});

describe('parquet', () => {
  const captions = ['a fox', null, ' ', 'a {cat}'];
  const bytes = new Uint8Array(
    parquetWriteBuffer({
      rowGroupSize: 2,
      columnData: [
        { name: 'caption', data: captions, type: 'STRING' },
        { name: 'id', data: [1, 2, 3, 4], type: 'INT32' },
      ],
    }),
  );
  const wanted = ['a fox', 'caption is null', 'the line is blank', 'a {cat}'];
  const said = (records: { prompt?: string; error?: string }[]) => records.map((r) => r.prompt ?? r.error);
  const args = ['--column', 'caption', '--dry-run', '-o', 'pq'];

  test('from files, counted through, and from stdin, be it a file or a pipe', () => {
    writeFileSync(at('a.parquet'), bytes);
    writeFileSync(at('b.csv'), 'caption\nan owl\n');
    const both = sample([...args, 'a.parquet', 'b.csv']);
    expect([both.code, said(both.records)]).toEqual([1, [...wanted, 'an owl']]);
    expect(both.records.map((r) => r.index)).toEqual([0, 1, 2, 3, 4]);
    expect(said(sample(args, bytes).records)).toEqual(wanted); // a pipe
    const shell = (line: string) =>
      Bun.spawnSync(['bash', '-c', `"${process.execPath}" "${MAIN}" sample ${args.join(' ')} ${line}`], {
        cwd: folder,
      });
    const from = (line: string) => {
      const lines = shell(line).stdout.toString().trim().split('\n');
      return said(lines.map((text) => JSON.parse(text)));
    };
    expect(from('-m m.safetensors < a.parquet')).toEqual(wanted);
    expect(from('-m m.safetensors < b.csv')).toEqual(['an owl']);
    expect(from('-m m.safetensors <(cat a.parquet) <(cat b.csv)')).toEqual([...wanted, 'an owl']);
    expect(readdirSync(folder).filter((name) => name.includes('spool'))).toEqual([]);
  });

  test('columns that are not there or hold no texts, and broken files', () => {
    const refusal = (column: string, stdin: Uint8Array) => {
      const { code, err, records } = sample(['--column', column, '-o', 'pq'], stdin);
      expect([code, records.length, err.trimEnd().split('\n').length]).toEqual([1, 0, 1]);
      return err;
    };
    expect(refusal('captoin', bytes)).toContain('has the columns caption, id. Did you mean caption?');
    expect(refusal('id', bytes)).toContain(
      'is no text but INT32 in standard input. Columns of texts: caption',
    );
    expect(refusal('caption', bytes.subarray(0, 100))).toContain('standard input: cannot be read as Parquet');
  });
});
