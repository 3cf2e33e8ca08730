// The life of a server: it answers while it draws, its queue fills, clients go, the engine dies, a token is
// needed, signals end it.
import { afterAll, beforeAll, describe, expect, test } from 'bun:test';
import { eventsOf, isAlive, picturesOf, spawnServer, TestServer } from './server.ts';

/** Takes as long as the test needs it to. */
const LONG = { prompt: 'a fox', steps: 10_000 };
const SHORT = { prompt: 'a fox', steps: 2 };
const MANY_STEPS = ['--max-steps', '10000'];

async function errorOf(response: Response): Promise<{ status: number; code: string; message: string }> {
  const { error } = (await response.json()) as { error: { code: string; message: string } };
  return { status: response.status, code: error.code, message: error.message };
}

describe('while it draws', () => {
  let server: TestServer;
  beforeAll(async () => {
    server = await TestServer.start(['--queue', '3', ...MANY_STEPS]);
  });
  afterAll(() => server[Symbol.asyncDispose]());

  test('health answers, the queue fills and says so, and clients that go make room', async () => {
    const goes = new AbortController();
    const long = server.post(LONG, { signal: goes.signal });
    long.catch(() => {});
    await server.until((health) => health.in_hand === 1);
    const waits = new AbortController();
    const waiting = server.post({ ...SHORT, n: 2 }, { signal: waits.signal });
    waiting.catch(() => {});
    const stays = server.post(SHORT);
    expect(await server.until((health) => health.queue === 3)).toMatchObject({
      state: 'drawing',
      model: 'emoji',
      device: 'cpu',
      queue_limit: 3,
      pictures: 0,
    });
    const full = await server.post(SHORT);
    expect(Number(full.headers.get('retry-after'))).toBeGreaterThan(0);
    expect(await errorOf(full)).toMatchObject({ status: 429, code: 'queue_full' });
    expect(await errorOf(await server.post({ ...SHORT, n: 4 }))).toMatchObject({ status: 400 });
    // None of these waits for the picture.
    for (let i = 0; i < 20; i++) expect((await server.health()).in_hand).toBe(1);

    waits.abort();
    await server.until((health) => health.queue === 1);
    goes.abort();
    // The long picture is dropped between two steps, and the one that waited is drawn.
    expect((await picturesOf(await stays)).length).toBe(1);
    expect(await server.health()).toMatchObject({ state: 'ready', pictures: 1, in_hand: 0, restarts: 0 });
  });

  test('a stream tells the place in the queue, and ends with its client', async () => {
    const goes = new AbortController();
    const long = await server.post(
      { ...LONG, steps: 400, stream: true, partial_images: 20 },
      { signal: goes.signal },
    );
    await server.until((health) => health.in_hand === 1);
    const waiting = server.post({ ...SHORT, stream: true });
    await server.until((health) => health.queue === 1);
    const reader = long.body!.getReader();
    expect(new TextDecoder().decode((await reader.read()).value)).toStartWith('event: image_generation.');
    goes.abort();
    const events = await eventsOf(await waiting);
    expect(events[0]).toMatchObject({ type: 'image_generation.queued', before: 1 });
    expect(events.at(-1)!.type).toBe('image_generation.completed');
  });
});

describe('an engine that dies', () => {
  test('fails what it had in hand, is started again, and draws what waited; health says so', async () => {
    await using server = await TestServer.start(MANY_STEPS);
    const first = server.engine;
    const why = 'the engine ended while it drew (SIGKILL); it is started again: ask once more';
    const long = server.post({ ...LONG, n: 2 });
    await server.until((health) => health.in_hand === 2);
    const waiting = server.post({ ...LONG, stream: true });
    await server.until((health) => health.queue === 1);
    process.kill(first, 'SIGKILL');
    expect(await errorOf(await long)).toEqual({ status: 500, code: 'not_drawn', message: why });
    const state = await server.until((health) => health.restarts === 1 && health.in_hand === 1);
    expect([state.failure, state.failed, state.queue]).toEqual([null, 2, 0]);
    expect(server.engine).not.toBe(first);
    process.kill(server.engine, 'SIGKILL');
    expect((await eventsOf(await waiting)).at(-1)).toMatchObject({ type: 'error', error: { message: why } });
    expect((await picturesOf(await server.post(SHORT))).length).toBe(1);
  });

  test('too often is not started again: orders are refused with the reason', async () => {
    await using server = await TestServer.start();
    for (let deaths = 1; deaths <= 6; deaths++) {
      process.kill(server.engine, 'SIGKILL');
      await server.until((health) => (deaths === 6 ? health.state === 'failed' : health.restarts === deaths));
    }
    const health = await fetch(`${server.url}/health`);
    expect(health.status).toBe(503);
    expect(await health.json()).toMatchObject({ restarts: 5, failure: expect.stringContaining('6 times') });
    expect(await errorOf(await server.post(SHORT))).toMatchObject({ status: 503, code: 'engine_failed' });
  });

  test('goes with a server that is killed', async () => {
    const server = await TestServer.start(MANY_STEPS);
    const { engine } = server;
    server.post(LONG).catch(() => {});
    await server.until((health) => health.in_hand === 1);
    await server[Symbol.asyncDispose]();
    while (isAlive(engine)) await Bun.sleep(10);
  });
});

describe('a token', () => {
  const TOKEN = 'a-secret-of-some-length';
  const bearer = (token: string) => ({ headers: { authorization: `Bearer ${token}` } });

  test('is needed where others can reach the server, for all but the page', async () => {
    await using server = await TestServer.start(['--host', '0.0.0.0'], { MICRODIFF_TOKEN: TOKEN });
    for (const init of [{}, bearer('wrong'), bearer('')]) {
      const response = await server.post(SHORT, init);
      expect(response.headers.get('www-authenticate')).toStartWith('Bearer');
      expect(await errorOf(response)).toMatchObject({ status: 401, code: 'invalid_api_key' });
      expect((await fetch(`${server.url}/v1/models`, init)).status).toBe(401);
      expect(await (await fetch(`${server.url}/health`, init)).json()).toEqual({ state: 'ready' });
    }
    expect((await fetch(`${server.url}/v1/models?token=${TOKEN}`)).status).toBe(401);
    expect((await picturesOf(await server.post(SHORT, bearer(TOKEN)))).length).toBe(1);
    expect(await (await fetch(`${server.url}/health`, bearer(TOKEN))).json()).toMatchObject({ pictures: 1 });
    expect((await fetch(`${server.url}/`)).status).toBe(200);
    const settings = Bun.file(`/proc/${server.engine}/environ`);
    expect(await settings.text()).not.toContain(TOKEN);
  });

  test.each([
    [['--host', '0.0.0.0'], 2, 'error: --host 0.0.0.0: others can reach this address, and there is no token'],
    [['--token', 'short'], 2, 'error: token: needs at least 16 characters'],
    [['--allow-host', 'http://x'], 2, 'error: --allow-host: "http://x" is no name'],
    [['-m', 'nope'], 2, 'error: -m nope: neither a file nor a folder'],
    [['--max-step', '3'], 2, 'unknown flag'],
  ])('%j does not start', async (args, code, message) => {
    const child = spawnServer(args);
    expect([await child.exited, await child.stdout.text()]).toEqual([code, '']);
    const said = await child.stderr.text();
    expect(said).toContain(message);
    expect(said.trimEnd().split('\n').length).toBe(1);
  });

  test('a port that is taken', async () => {
    const other = Bun.serve({ hostname: '127.0.0.1', port: 0, fetch: () => new Response() });
    const child = spawnServer([], {}, other.port);
    expect(await child.exited).toBe(1);
    expect(await child.stderr.text()).toContain(`127.0.0.1:${other.port}: the port is taken`);
    await other.stop(true);
  });
});

describe('signals', () => {
  test.each([
    ['SIGTERM', 143],
    ['SIGINT', 130],
  ] as const)('%s: what is in hand is ended, the rest refused', async (signal, code) => {
    await using server = await TestServer.start(MANY_STEPS);
    const { engine } = server;
    const hand = server.post({ ...SHORT, steps: 20 });
    await server.until((health) => health.in_hand === 1);
    const waits = server.post({ ...LONG, n: 2 });
    await server.until((health) => health.queue === 2);
    server.child.kill(signal);
    expect(await errorOf(await waits)).toMatchObject({ message: 'the server is stopping' });
    expect((await picturesOf(await hand)).length).toBe(1);
    expect(await server.child.exited).toBe(code);
    expect(isAlive(engine)).toBe(false);
    await expect(server.health()).rejects.toThrow();
    expect(await server.child.stderr.text()).toContain(`${signal}: ending after the pictures in hand`);
  });

  test('a second one ends it at once', async () => {
    await using server = await TestServer.start(MANY_STEPS);
    const { engine } = server;
    server.post(LONG).catch(() => {});
    await server.until((health) => health.in_hand === 1);
    server.child.kill('SIGTERM');
    while (await server.health().catch(() => null)) await Bun.sleep(1); // it takes no more
    server.child.kill('SIGTERM');
    expect(await server.child.exited).toBe(143);
    while (isAlive(engine)) await Bun.sleep(10);
  });
});
