// pull, list and rm as programs, against a hub on this machine: what they print, signals, kill -9.

import { afterEach, beforeEach, expect, test } from 'bun:test';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { hubSettings } from '../../../src/io/hub/settings.ts';
import { pulledModel, pulledPart } from '../../../src/sample/pulled.ts';
import { REGISTRY, withNeeds } from '../../../src/sample/registry.ts';
import { COMMIT, noise, serve, sha256, startHub } from '../hub-server.ts';

const MAIN = `${import.meta.dir}/../../../src/cli/main.ts`;
const VAE = noise(4_000_000, 3);
const DIT = noise(2_000_000, 4);
const CLIP = noise(50_000, 5);
const JSON_FILE = new TextEncoder().encode('{}');
const FILES = {
  'VSehwag24/MicroDiT/ckpts/dit_4_channel_37M_real_and_synthetic_data.pt': DIT,
  'stabilityai/sdxl-vae/diffusion_pytorch_model.safetensors': VAE,
  'stabilityai/sdxl-vae/config.json': JSON_FILE,
  'apple/DFN5B-CLIP-ViT-H-14-378/open_clip_pytorch_model.bin': CLIP,
  'apple/DFN5B-CLIP-ViT-H-14-378/open_clip_config.json': JSON_FILE,
};

let hub: Awaited<ReturnType<typeof startHub>>;
let home: string;
beforeEach(async () => {
  hub = await startHub({ ...FILES });
  home = mkdtempSync(join(tmpdir(), 'pull-'));
});
afterEach(() => {
  hub.stop();
  rmSync(home, { recursive: true, force: true });
});

function start(args: string[], env: Record<string, string> = {}) {
  const child = Bun.spawn([process.execPath, MAIN, ...args], {
    env: { PATH: process.env.PATH, HOME: home, HF_ENDPOINT: hub.url, ...env },
    stdout: 'pipe',
    stderr: 'pipe',
  });
  const end = async () => {
    const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text()]);
    return { code: await child.exited, out, err };
  };
  return { child, end };
}
const run = (args: string[], env?: Record<string, string>) => start(args, env).end();

const cache = (...path: string[]) => join(home, '.cache/huggingface/hub', ...path);
const vaePath = () =>
  cache('models--stabilityai--sdxl-vae/snapshots', COMMIT, 'diffusion_pytorch_model.safetensors');
const slowly = () => {
  hub.state.misdeed = (seen) => (seen.host === 'storage' ? { ...serve(seen, VAE), pause: 20 } : undefined);
};
const until = async (holds: () => boolean) => {
  for (let i = 0; i < 500 && !holds(); i++) await Bun.sleep(10);
  expect(holds()).toBe(true);
};
const halfWay = () => {
  const blobs = cache('models--stabilityai--sdxl-vae/blobs');
  const name = existsSync(blobs) && readdirSync(blobs).find((one) => one.endsWith('.incomplete'));
  return name ? statSync(join(blobs, name)).blocks * 512 > 500_000 : false;
};

test('pull takes all that the name needs; stdout is the path of the weights', async () => {
  const { code, out, err } = await run(['pull', 'microdit-37m']);
  expect(code).toBe(0);
  const path = cache(
    'models--VSehwag24--MicroDiT/snapshots',
    COMMIT,
    'ckpts/dit_4_channel_37M_real_and_synthetic_data.pt',
  );
  expect(out).toBe(`${path}\n`);
  expect(sha256(readFileSync(path))).toBe(sha256(DIT));
  expect(sha256(readFileSync(vaePath()))).toBe(sha256(VAE));
  expect(err).toContain('licence Apache-2.0 (https://');
  expect(err).toContain('licence Apple Sample Code License, which microdiff has not read');
  expect(err.indexOf('licence MIT')).toBeLessThan(err.indexOf('downloaded'));

  const listed = JSON.parse((await run(['list', '--json'])).out);
  expect(listed.cache).toBe(cache());
  const here = listed.weights.filter((row: { here: boolean }) => row.here);
  expect(here.map((row: { name: string }) => row.name)).toEqual(['microdit-37m', 'sdxl-vae', 'dfn5b-clip']);
  expect(here[1].files[0]).toMatchObject({ file: vaePath(), bytes: VAE.length });
  const table = (await run(['list'])).out;
  expect(table).toMatch(/^sdxl-vae +yes +4\.00 MB +MIT +- /m);
  expect(table).toMatch(/^microdit-22m +- +~4\.66 GB +Apache-2\.0 +sdxl-vae, dfn5b-clip /m);

  const removed = await run(['rm', 'sdxl-vae']);
  expect([removed.code, removed.out]).toEqual([0, '']);
  expect(removed.err).toContain('needed by microdit-22m');
  expect(existsSync(cache('models--stabilityai--sdxl-vae'))).toBe(false);
  expect((await run(['rm', 'sdxl-vae'])).err).toContain('none of its files is in the cache');
});

test('-m takes a pulled name with its parts, and says what to pull', async () => {
  const settings = hubSettings({}, home);
  const sampling = ['sample', '-m', 'microdit-37m', 'a fox', '-o', join(home, 'x.png')];
  expect(await run(sampling)).toMatchObject({
    code: 3,
    err: expect.stringContaining('it is not downloaded. Run `microdiff pull microdit-37m`'),
  });
  await run(['pull', '-q', 'microdit-37m', '--only']);
  expect(pulledModel('microdit-37m', settings).parts).toEqual({ clip: undefined, vae: undefined });
  await run(['pull', '-q', 'microdit-37m']);
  const { path, parts } = pulledModel('microdit-37m', settings);
  expect(sha256(readFileSync(path))).toBe(sha256(DIT));
  expect(parts.vae).toBe(vaePath());
  expect(sha256(readFileSync(parts.clip ?? ''))).toBe(sha256(CLIP));
  expect(pulledPart('sdxl-vae', settings)).toBe(vaePath());
  expect(pulledPart('some.safetensors', settings)).toBe('some.safetensors');
  expect(() => pulledPart('ostris-vae', settings)).toThrow('Run `microdiff pull ostris-vae`');
  expect(() => pulledModel('sdxl-vae', settings)).toThrow('is no model');
  // Noise is no checkpoint, but the right file was opened.
  expect((await run(sampling)).err).toContain(path);
});

test('kill -9 in the midst, and on from there', async () => {
  slowly();
  const { child, end } = start(['pull', 'sdxl-vae']);
  await until(halfWay);
  child.kill('SIGKILL');
  await end();
  expect(existsSync(vaePath())).toBe(false);
  hub.state.misdeed = () => undefined;
  hub.seen.length = 0;
  const { code, out, err } = await run(['pull', 'sdxl-vae', '--json']);
  expect([code, err]).toEqual([0, expect.stringContaining('going on from')]);
  const first = hub.seen.find(({ host }) => host === 'storage');
  expect(Number(/\d+/.exec(first?.range ?? '')?.[0])).toBeGreaterThan(100_000);
  expect(JSON.parse(out).files[0]).toMatchObject({
    name: 'sdxl-vae',
    file: vaePath(),
    sha256: sha256(VAE),
    fresh: true,
  });
});

test.each([
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const)('%s ends with %d', async (signal, code) => {
  slowly();
  const { child, end } = start(['pull', 'sdxl-vae']);
  await until(halfWay);
  child.kill(signal);
  expect(await end()).toMatchObject({ code, out: '', err: expect.stringContaining('goes on from here') });
});

test('two processes at once', async () => {
  slowly();
  const first = start(['pull', 'sdxl-vae']);
  await until(halfWay);
  const second = run(['pull', 'sdxl-vae']);
  const ends = await Promise.all([first.end(), second]);
  expect(ends.map(({ code, out }) => [code, out])).toEqual([
    [0, `${vaePath()}\n`],
    [0, `${vaePath()}\n`],
  ]);
  expect(ends[1].err).toContain('another process is downloading it');
  expect(hub.seen.filter(({ host }) => host === 'storage').length).toBe(1);
  expect(sha256(readFileSync(vaePath()))).toBe(sha256(VAE));
});

test('slips', async () => {
  expect(await run(['pull', 'sdxl-va'])).toMatchObject({
    code: 2,
    err: expect.stringContaining('Did you mean sdxl-vae?'),
  });
  expect((await run(['pull'])).code).toBe(2);
  expect((await run(['rm', 'nothing-like-it'])).code).toBe(2);
  const offline = await run(['pull', 'sdxl-vae'], { HF_HUB_OFFLINE: '1' });
  expect(offline).toMatchObject({ code: 1, out: '' });
  expect((await run(['pull', 'sdxl-vae'], { HF_ENDPOINT: 'nowhere' })).code).toBe(2);
});

test('the registry: names once, needs that exist, no made-up checksums', () => {
  const names = REGISTRY.map(({ name }) => name);
  expect(new Set(names).size).toBe(names.length);
  for (const entry of REGISTRY) {
    expect(withNeeds([entry.name]).at(-1)).toBe(entry);
    expect((entry.hub === undefined) !== (entry.url === undefined)).toBe(true);
    for (const { sha256 } of entry.files) expect(sha256 ?? 'f'.repeat(64)).toMatch(/^[0-9a-f]{64}$/);
  }
  expect(withNeeds(['microdit-37m-16ch']).map(({ name }) => name)).toEqual([
    'ostris-vae',
    'dfn5b-clip',
    'microdit-37m-16ch',
  ]);
});
