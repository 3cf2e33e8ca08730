// Many prompts through a pipe with the shipped model: order, memory, pictures that another decoder reads,
// kills and goings-on. MICRODIFF_PROMPTS=1000 makes it the long run (60 are enough for every change).
import { afterAll, describe, expect, test } from 'bun:test';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PNG } from 'pngjs';

const MAIN = join(import.meta.dir, '../../../src/cli/main.ts');
const COUNT = Number(process.env.MICRODIFF_PROMPTS ?? 60);
const folder = mkdtempSync(join(tmpdir(), 'microdiff-pipe-'));
afterAll(() => rmSync(folder, { recursive: true }));

const prompts = Array.from({ length: COUNT }, (_, i) => `a fox number ${i}, noto style`);
const text = `${prompts.join('\n')}\n`;

interface Said {
  readonly index: number;
  readonly prompt: string;
  readonly file: string;
  readonly skipped?: true;
}

function start(out: string, ...more: string[]) {
  const words = [MAIN, 'sample', '--steps', '1', '--threads', '1', '-o', out, ...more];
  const env = { ...process.env, MICRODIFF_DEVICE: 'cpu', FORCE_COLOR: '' };
  return Bun.spawn([process.execPath, ...words], {
    ...{ cwd: folder, env },
    ...{ stdin: 'pipe', stdout: 'pipe', stderr: 'pipe' },
  });
}

/** The records as they come. */
async function* records(child: ReturnType<typeof start>): AsyncGenerator<Said> {
  let rest = '';
  for await (const chunk of child.stdout.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + chunk).split('\n');
    rest = lines.pop()!;
    for (const line of lines) yield JSON.parse(line);
  }
}

/** Memory of a process in MiB. */
function resident(pid: number): number {
  const kib = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
  return Number(kib) / 1024;
}

describe(`${COUNT} prompts`, () => {
  const hashes = new Map<string, string>();

  test('records in order, whole pictures, and memory that does not grow', async () => {
    const child = start('all');
    child.stdin.write(text);
    child.stdin.end();
    const said: Said[] = [];
    const memory: [number, number][] = [];
    for await (const record of records(child)) {
      said.push(record);
      if (said.length % Math.ceil(COUNT / 20) === 0 && said.length < COUNT - 8) {
        memory.push([said.length, resident(child.pid)]);
      }
    }
    expect([await child.exited, await child.stderr.text()]).toEqual([0, '']);
    expect(said.map((r) => r.index)).toEqual(prompts.map((_, i) => i));
    expect(said.map((r) => r.prompt)).toEqual(prompts);
    for (const { file } of said) {
      const bytes = readFileSync(join(folder, file));
      const { width, height, data } = PNG.sync.read(bytes);
      expect([width, height, data.length]).toEqual([32, 32, 4096]);
      hashes.set(file.replace('all/', ''), Bun.hash(bytes).toString());
    }
    expect(readdirSync(join(folder, 'all')).length).toBe(COUNT);
    const after = memory.filter(([n]) => n >= COUNT / 5).map(([, mib]) => mib);
    const growth = Math.max(...after) - after[0]!;
    if (process.env.MICRODIFF_PROMPTS)
      console.log(memory.map(([n, mib]) => `${n}: ${mib.toFixed(0)} MiB`).join('  '));
    expect(growth).toBeLessThan(24);
  });

  test('killed in the middle and gone on with: nothing twice, nothing lost', async () => {
    const first = start('killed');
    first.stdin.write(text);
    first.stdin.end();
    let seen = 0;
    for await (const _ of records(first)) if (++seen === Math.floor(COUNT / 2)) first.kill('SIGKILL');
    await first.exited;
    expect(first.signalCode).toBe('SIGKILL');
    const before = readdirSync(join(folder, 'killed')).filter((name) => name.endsWith('.png')).length;
    expect(before).toBeLessThan(COUNT);

    const second = start('killed', '--skip-existing');
    second.stdin.write(text);
    second.stdin.end();
    const said: Said[] = [];
    for await (const record of records(second)) said.push(record);
    expect(await second.exited).toBe(0);
    expect(said.map((r) => r.index)).toEqual(prompts.map((_, i) => i));
    expect(said.filter((r) => r.skipped).length).toBe(before);
    const names = readdirSync(join(folder, 'killed'));
    expect(names.sort()).toEqual([...hashes.keys()].sort());
    for (const name of names) {
      expect(Bun.hash(readFileSync(join(folder, 'killed', name))).toString()).toBe(hashes.get(name)!);
    }
  });

  test('the first picture does not wait for the rest; a reader that goes ends it quietly', async () => {
    const child = start('slow');
    child.stdin.write('a fox\n');
    child.stdin.flush();
    const stream = records(child);
    expect((await stream.next()).value).toMatchObject({ index: 0, prompt: 'a fox' }); // stdin is still open
    child.stdin.write('a cat\n');
    child.stdin.flush();
    expect((await stream.next()).value).toMatchObject({ index: 1, prompt: 'a cat' });
    await stream.return(undefined);
    await child.stdout.cancel().catch(() => {});
    child.stdin.write(text);
    child.stdin.end();
    expect([await child.exited, await child.stderr.text()]).toEqual([0, '']);
    expect(readdirSync(join(folder, 'slow')).length).toBeLessThan(COUNT + 2);
  });
});
