// Downloads against a hub on this machine that drops, lies, refuses and redirects; the cache that they leave.

import { afterEach, beforeEach, describe, expect, test } from 'bun:test';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Net, retryAfter } from '../../src/io/hub/http.ts';
import { pullFile, type PullOptions, type RemoteFile } from '../../src/io/hub.ts';
import { removePulled } from '../../src/io/hub/remove.ts';
import { hubSettings } from '../../src/io/hub/settings.ts';
import { lockNow } from '../../src/io/hub/lock.ts';
import { PartialFile } from '../../src/io/hub/partial-file.ts';
import { type Answer, COMMIT, noise, serve, sha256, startHub } from './hub-server.ts';

const BIG = noise(1_000_003);
const SMALL = new TextEncoder().encode('{"scaling_factor": 0.13025}');
const CHUNK = 100_000;
const big: RemoteFile = {
  name: 'big',
  repository: 'org/name',
  revision: 'main',
  path: 'sub/big.bin',
  sha256: null,
};
const small: RemoteFile = { ...big, name: 'small', path: 'config.json' };
const FILES = { 'org/name/sub/big.bin': BIG, 'org/name/config.json': SMALL };

let hub: Awaited<ReturnType<typeof startHub>>;
let home: string;
let notes: string[];
beforeEach(async () => {
  hub = await startHub({ ...FILES });
  home = mkdtempSync(join(tmpdir(), 'hub-'));
  notes = [];
});
afterEach(() => {
  hub.stop();
  rmSync(home, { recursive: true, force: true });
});

const settingsOf = (env: Record<string, string> = {}) =>
  hubSettings({ HF_ENDPOINT: hub.url, HF_HOME: join(home, 'hf'), ...env }, home);
const repo = (...path: string[]) => join(home, 'hf/hub/models--org--name', ...path);

async function pull(
  file: RemoteFile,
  env: Record<string, string> = {},
  options: PullOptions = {},
  more: Partial<Net> = {},
) {
  const settings = settingsOf(env);
  const net: Net = {
    token: settings.token,
    home: settings.endpoint,
    userAgent: 'test',
    stallMs: 300,
    retryMs: 1,
    note: (line) => notes.push(line),
    ...more,
  };
  return pullFile(file, settings, net, { chunkBytes: CHUNK, ...options });
}

const failure = async (work: Promise<unknown>) => {
  try {
    await work;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
  return 'no error';
};

const isWhole = (path: string, bytes = BIG) => expect(sha256(readFileSync(path))).toBe(sha256(bytes));
const bodies = () => hub.seen.filter(({ method }) => method === 'GET');

describe('the cache', () => {
  test('is laid out as huggingface_hub lays it out', async () => {
    const got = await pull(big);
    expect(got).toMatchObject({ bytes: BIG.length, sha256: sha256(BIG), fresh: true });
    expect(got.path).toBe(repo('snapshots', COMMIT, 'sub/big.bin'));
    expect(readlinkSync(got.path)).toBe(`../../../blobs/${sha256(BIG)}`);
    isWhole(repo('blobs', sha256(BIG)));
    expect(readFileSync(repo('refs/main'), 'utf8')).toBe(COMMIT);
    const config = await pull(small);
    expect(readlinkSync(config.path)).toBe(
      `../../blobs/${Bun.spawnSync(['git', 'hash-object', config.path]).stdout.toString().trim()}`,
    );
  });

  test('is used without a request the second time, and offline', async () => {
    const first = await pull(big);
    hub.seen.length = 0;
    expect(await pull(big)).toEqual({ ...first, fresh: false });
    expect(await pull(big, { HF_HUB_OFFLINE: '1' })).toEqual({ ...first, fresh: false });
    expect(hub.seen).toEqual([]);
  });

  test('offline without the file is an error', async () => {
    expect(await failure(pull(big, { HF_HUB_OFFLINE: 'yes' }))).toContain('HF_HUB_OFFLINE forbids');
    expect(hub.seen).toEqual([]);
  });

  test('what another program put there is checked and taken', async () => {
    const path = (await pull(big)).path;
    rmSync(join(home, '.local'), { recursive: true });
    expect((await pull(big, { HF_HUB_OFFLINE: '1' })).path).toBe(path);
    rmSync(join(home, '.local'), { recursive: true });
    writeFileSync(repo('blobs', sha256(BIG)), noise(BIG.length, 2));
    expect(await failure(pull(big))).toMatch(/its sha256 is \w+, the hub's \w+\. Run `microdiff rm big`/);
  });

  test('HF_HUB_CACHE goes before HF_HOME', async () => {
    const got = await pull(big, { HF_HUB_CACHE: join(home, 'elsewhere') });
    expect(got.path).toStartWith(join(home, 'elsewhere/models--org--name/snapshots/'));
  });

  test('rm removes the file, its blob and the empty folders, and nothing of the others', async () => {
    await pull(big);
    await pull(small);
    expect(removePulled([big], settingsOf())).toBe(BIG.length);
    expect(existsSync(repo('blobs', sha256(BIG)))).toBe(false);
    expect(existsSync(repo('snapshots', COMMIT, 'sub'))).toBe(false);
    expect((await pull(small)).fresh).toBe(false);
    removePulled([small], settingsOf());
    expect(existsSync(repo())).toBe(false);
    expect(removePulled([small], settingsOf())).toBeUndefined();
  });
});

describe('checksums', () => {
  test('the first download pins commit and bytes; --update takes the new ones', async () => {
    await pull(big);
    rmSync(repo(), { recursive: true });
    hub.stop();
    const other = noise(BIG.length, 7);
    hub = await startHub({ 'org/name/sub/big.bin': other });
    expect(await failure(pull(big))).toContain('but the first download had');
    expect(bodies()).toEqual([]);
    isWhole((await pull(big, {}, { update: true })).path, other);
  });

  test('a checksum of the registry is compared before a byte comes', async () => {
    const message = await failure(pull({ ...big, sha256: 'ab'.repeat(32) }));
    expect(message).toContain(`the hub has sha256 ${sha256(BIG)}, but the registry had abab`);
    expect(bodies()).toEqual([]);
  });

  test('wrong bytes are refused and leave nothing under the final name', async () => {
    hub.state.misdeed = (seen) => (seen.host === 'storage' ? serve(seen, noise(BIG.length, 9)) : undefined);
    expect(await failure(pull(big))).toMatch(/^big \(sub\/big.bin\): its sha256 is \w+, the hub's \w+\./);
    expect(existsSync(repo('blobs', sha256(BIG)))).toBe(false);
    expect(existsSync(repo('snapshots'))).toBe(false);
    expect(existsSync(repo('blobs', `${sha256(BIG)}.microdiff.incomplete`))).toBe(false);
  });

  test('wrong bytes of a small file are seen by the checksum of git', async () => {
    hub.state.misdeed = (seen) =>
      seen.method === 'GET' ? { status: 200, body: SMALL.map((byte) => byte ^ 1) } : undefined;
    expect(await failure(pull(small))).toContain('its git checksum is');
  });

  test('a bad rest of an earlier download is fetched anew', async () => {
    hub.state.misdeed = (seen, count) =>
      seen.host !== 'storage'
        ? undefined
        : count < 3
          ? serve(seen, noise(BIG.length, 9))
          : { status: 400, headers: {} };
    expect(await failure(pull(big))).toContain('gave up');
    hub.state.misdeed = () => undefined;
    isWhole((await pull(big)).path);
    expect(notes.join('\n')).toMatch(/going on from 0\.\d MB[\s\S]*fetched anew/);
  });
});

describe('a bad line', () => {
  test('connections that break go on where they broke', async () => {
    hub.state.misdeed = (seen, count) => {
      if (seen.host !== 'storage' || count % 2 === 1) return undefined;
      return { ...serve(seen, BIG), cut: 80_000, pause: 5 };
    };
    isWhole((await pull(big)).path);
    const starts = bodies().map(({ range }) => Number(/\d+/.exec(range ?? '')?.[0]) % CHUNK);
    expect(starts.filter((start) => start > 0).length).toBeGreaterThan(3);
  });

  test('a signed address is asked for anew after trouble', async () => {
    hub.state.misdeed = (seen, count) => (seen.host === 'storage' && count < 4 ? { status: 403 } : undefined);
    isWhole((await pull(big)).path);
    expect(hub.seen.filter(({ method }) => method === 'HEAD').length).toBeGreaterThan(1);
  });

  test('silence is given up and tried again', async () => {
    hub.state.misdeed = (seen, count) =>
      seen.host === 'storage' && count === 1 ? { ...serve(seen, BIG), cut: 10, hang: true } : undefined;
    isWhole((await pull(big)).path);
    expect(notes.join()).toContain('was silent for 0.3 s');
  });

  test('a server that never gets better ends in an error, and a later try goes on', async () => {
    let served = 0;
    hub.state.misdeed = (seen) => (seen.host !== 'storage' || served++ < 5 ? undefined : { status: 503 });
    expect(await failure(pull(big))).toMatch(
      /says HTTP 503; gave up after 5 tries\. Run the same command again/,
    );
    hub.state.misdeed = () => undefined;
    isWhole((await pull(big)).path);
    expect(notes.join()).toContain('going on from');
  });

  test('ranges that are ignored: one stream, also after it broke', async () => {
    hub.state.misdeed = (seen, count) =>
      seen.host === 'storage'
        ? { status: 200, body: BIG, ...(count === 5 ? { cut: 250_000 } : {}) }
        : undefined;
    isWhole((await pull(big)).path);
    expect(notes.join()).toContain('does not serve parts of files');
  });

  test('lies about the length', async () => {
    hub.state.misdeed = (seen, count) => {
      if (seen.host !== 'storage') return undefined;
      const right = serve(seen, BIG);
      const lies = [
        { ...right, headers: { ...right.headers, 'content-length': '5' } },
        { ...right, headers: { ...right.headers, 'content-length': '999999' } },
        {
          status: 206,
          headers: { 'content-range': `bytes 3-9/${BIG.length}` },
          body: BIG.subarray(500_000, 510_000),
        },
        { ...right, headers: { ...right.headers, 'content-range': 'bytes 0-99999/100000' } },
      ];
      return lies[count] as Answer | undefined;
    };
    isWhole((await pull(big)).path);
    hub.state.misdeed = (seen) =>
      seen.method === 'HEAD'
        ? { status: 200, headers: { 'x-repo-commit': COMMIT, etag: sha256(SMALL), 'content-length': '99' } }
        : undefined;
    expect(await failure(pull(small))).toContain('sends 27 bytes where the file has 99');
  });

  test('416 is no success', async () => {
    hub.state.misdeed = (seen) => (seen.host === 'storage' ? { status: 416 } : undefined);
    expect(await failure(pull(big))).toMatch(/says that the file ends before byte \d+; gave up/);
  });

  test('rate limits: waits as long as it is told', async () => {
    hub.state.misdeed = (seen, count) =>
      seen.method === 'HEAD' && count === 0 ? { status: 429, headers: { 'retry-after': '0.2' } } : undefined;
    const start = performance.now();
    await pull(small);
    expect(performance.now() - start).toBeGreaterThan(190);
    expect(notes.join()).toContain('HTTP 429; trying again in 0.2 s');
    hub.state.misdeed = (seen) =>
      seen.method === 'HEAD' ? { status: 429, headers: { 'retry-after': '9999' } } : undefined;
    expect(await failure(pull(big))).toContain('asks to wait 9999 s');
  });

  test('Retry-After as a date, and the hub’s own header', () => {
    const headers = (entries: Record<string, string>) =>
      retryAfter(new Headers(entries), Date.UTC(2026, 0, 1));
    expect(headers({ 'retry-after': 'Thu, 01 Jan 2026 00:00:09 GMT' })).toBe(9000);
    expect(headers({ ratelimit: '"resolvers";r=0;t=12' })).toBe(12000);
    expect(headers({})).toBeUndefined();
  });

  test('no hub at all', async () => {
    hub.stop();
    expect(await failure(pull(big))).toMatch(/^big: (127\.0\.0\.1|cannot reach).*gave up after 5 tries/);
  });

  test('a stop in the midst', async () => {
    const control = new AbortController();
    hub.state.misdeed = (seen) => (seen.host === 'storage' ? { ...serve(seen, BIG), pause: 50 } : undefined);
    const onProgress = () => control.abort();
    expect(await failure(pull(big, {}, { onProgress }, { signal: control.signal }))).toBe('stopped');
    hub.state.misdeed = () => undefined;
    isWhole((await pull(big)).path);
    expect(notes.join()).toContain('going on from');
  });
});

describe('refusals', () => {
  test.each([
    [401, {}, 'set HF_TOKEN'],
    [403, { 'x-error-code': 'GatedRepo' }, 'GatedRepo. Accept its terms'],
    [404, { 'x-error-code': 'RepoNotFound' }, 'RepoNotFound'],
    [418, {}, 'HTTP 418'],
  ])('HTTP %d of the hub', async (status, headers, words) => {
    hub.state.misdeed = () => ({ status, headers: { ...headers } });
    expect(await failure(pull(big))).toContain(words);
    expect(hub.seen.length).toBe(1);
  });

  test('something that is no hub', async () => {
    hub.state.misdeed = () => ({ status: 200, body: SMALL });
    expect(await failure(pull(big))).toContain('does not say its commit, length and checksum');
  });

  test('an etag that would leave the folder', async () => {
    hub.state.misdeed = () => ({ status: 200, headers: { 'x-repo-commit': COMMIT, etag: '../../../x' } });
    expect(await failure(pull(small))).toContain('does not say its commit');
  });

  test('redirects: round and round, or to no web address', async () => {
    hub.state.misdeed = () => ({ status: 307, headers: { location: '/org/name/resolve/main/x' } });
    expect(await failure(pull(big))).toContain('redirects in a circle');
    hub.state.misdeed = () => ({ status: 307, headers: { location: 'file:///etc/passwd' } });
    expect(await failure(pull(big))).toContain('no web address');
  });

  test('a renamed repository is followed', async () => {
    hub.state.misdeed = (seen) =>
      seen.path.includes('old/')
        ? { status: 307, headers: { location: seen.path.replace('old/', 'org/') } }
        : undefined;
    isWhole((await pull({ ...big, repository: 'old/name' })).path);
  });
});

describe('the token', () => {
  test('goes to the hub and to no other host', async () => {
    await pull(big, { HF_TOKEN: 'hf_secret\n' });
    const tokens = (host: string) =>
      new Set(hub.seen.filter((seen) => seen.host === host).map(({ token }) => token));
    expect(tokens('hub')).toEqual(new Set(['Bearer hf_secret']));
    expect(tokens('storage')).toEqual(new Set([undefined]));
  });

  test('from its file, or not at all', async () => {
    mkdirSync(join(home, 'hf'), { recursive: true });
    writeFileSync(join(home, 'hf/token'), 'hf_file\n');
    expect(settingsOf().token).toBe('hf_file');
    expect(settingsOf({ HF_TOKEN: 'hf_env' }).token).toBe('hf_env');
    expect(settingsOf({ HF_HUB_DISABLE_IMPLICIT_TOKEN: '1' }).token).toBeUndefined();
  });

  test('a broken one is refused without being shown', () => {
    expect(() => settingsOf({ HF_TOKEN: 'hf_a\nb' })).toThrow('HF_TOKEN: holds characters that no token has');
    expect(() => settingsOf({ HF_ENDPOINT: 'hub' })).toThrow('HF_ENDPOINT: hub is not an address');
  });
});

describe('a plain address', () => {
  const plain = (prefix = sha256(BIG).slice(0, 8)): RemoteFile => ({
    name: 'plain',
    url: `${hub.state.storage}/org/name/sub/big.bin`,
    path: 'big.bin',
    sha256: null,
    sha256_prefix: prefix,
  });

  test('goes where torch looks, checked by the digits in its name', async () => {
    const got = await pull(plain());
    expect(got.path).toBe(join(home, '.cache/torch/hub/checkpoints/big.bin'));
    isWhole(got.path);
    expect((await pull(plain(), { HF_HUB_OFFLINE: '1' })).fresh).toBe(false);
    expect(removePulled([plain()], settingsOf())).toBeGreaterThanOrEqual(BIG.length);
    expect(await failure(pull(plain('00000000')))).toContain('its name says 00000000...');
  });
});

describe('two at once', () => {
  test('the second waits for the first and takes its file', async () => {
    hub.state.misdeed = (seen) => (seen.host === 'storage' ? { ...serve(seen, BIG), pause: 5 } : undefined);
    const [a, b] = await Promise.all([pull(big), pull(big)]);
    expect([a.fresh, b.fresh].sort()).toEqual([false, true]);
    expect(notes.join()).toContain('another process is downloading it');
    isWhole(a.path);
  });

  test('rm refuses what is on its way', async () => {
    hub.state.misdeed = (seen) => (seen.host === 'storage' ? { status: 503 } : undefined);
    await failure(pull(big));
    const lock = lockNow(join(home, `hf/hub/.locks/models--org--name/${sha256(BIG)}.lock`));
    expect(() => removePulled([big], settingsOf())).toThrow('another process is downloading it');
    lock?.release();
    expect(removePulled([big], settingsOf())).toBeDefined();
    expect(existsSync(repo())).toBe(false);
  });
});

describe('an unfinished file', () => {
  test('of more than 4 GiB keeps its counters behind the bytes', () => {
    const path = join(home, 'x.incomplete');
    const first = new PartialFile(path, 5e9 + 1, 2 ** 26);
    const chunks = Array.from({ length: 75 }, () => first.take());
    expect(first.take()).toBeUndefined();
    first.append(chunks[74]!, new Uint8Array([1, 2, 3]));
    first.close();
    const again = new PartialFile(path, 5e9 + 1, 2 ** 26);
    expect([again.received, again.resumed, again.doneOf(chunks[74]!)]).toEqual([3, 3, 3]);
    again.close();
    const other = new PartialFile(path, 4e9, 2 ** 26);
    expect(other.received).toBe(0);
    other.close();
  });

  test('that was sealed and not renamed is whole', () => {
    const path = join(home, 'x.incomplete');
    writeFileSync(path, BIG);
    const file = new PartialFile(path, BIG.length, CHUNK);
    expect([file.isWhole, file.take()]).toEqual([true, undefined]);
    file.seal();
    file.close();
    isWhole(path);
  });
});

describe('disks', () => {
  const mounted = async (options: string, action: (mount: string) => Promise<void>) => {
    const mount = join(home, 'mount');
    mkdirSync(mount);
    if (Bun.spawnSync(['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', mount]).exitCode !== 0) {
      console.error('skipped: mounting a small tmpfs needs root');
      return;
    }
    try {
      await action(mount);
    } finally {
      Bun.spawnSync(['umount', '-l', mount]);
    }
  };

  test('too small: said before the download', async () => {
    await mounted('size=512k', async (mount) => {
      expect(await failure(pull(big, { HF_HUB_CACHE: mount }))).toMatch(
        /big needs 1\.0 MB and the disk has 0\.\d MB left/,
      );
      expect(bodies()).toEqual([]);
    });
  });

  test('full in the midst: an error, then the rest when there is room', async () => {
    await mounted('size=1500k', async (mount) => {
      hub.state.misdeed = (seen, count) => {
        if (seen.host === 'storage' && count === 0) writeFileSync(join(mount, 'ballast'), noise(1_000_000));
        return undefined;
      };
      expect(await failure(pull(big, { HF_HUB_CACHE: mount }))).toContain('cannot write: the disk is full');
      rmSync(join(mount, 'ballast'));
      isWhole((await pull(big, { HF_HUB_CACHE: mount })).path);
      expect(notes.join()).toContain('going on from');
    });
  });

  test('read-only: what is there is used, the rest is an error', async () => {
    await mounted('size=4m', async (mount) => {
      await pull(big, { HF_HUB_CACHE: mount });
      Bun.spawnSync(['mount', '-o', 'remount,ro', mount]);
      isWhole((await pull(big, { HF_HUB_CACHE: mount })).path);
      expect(await failure(pull(small, { HF_HUB_CACHE: mount }))).toContain('the file system is read-only');
    });
  });
});
