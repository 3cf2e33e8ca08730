// Pictures over HTTP, with the model that ships: the bytes of `sample`, streams, refusals, foreign pages.
import { afterAll, describe, expect, test } from 'bun:test';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pngTextOf } from '../../../src/io/png.ts';
import { ENV, eventsOf, PROGRAM, picturesOf, TestServer } from './server.ts';

const folder = mkdtempSync(join(tmpdir(), 'microdiff-serve-'));
const server = await TestServer.start();
afterAll(async () => {
  await server[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true });
});

/** The files that `sample` writes. */
function sampled(count: number, ...args: string[]): Uint8Array<ArrayBuffer>[] {
  const words = [...PROGRAM, 'sample', '--count', String(count), '-o', 's-%d.png', '--threads', '1', ...args];
  const { exitCode, stderr } = Bun.spawnSync(words, { cwd: folder, env: ENV, stdin: 'ignore' });
  expect([exitCode, stderr.toString()]).toEqual([0, '']);
  return Array.from({ length: count }, (_, i) => Uint8Array.from(readFileSync(join(folder, `s-${i}.png`))));
}

const PROMPT = 'a red apple, fluent 3d style';

describe('pictures', () => {
  test("n of them, the bytes of sample's files, also beside others", async () => {
    const order = { prompt: PROMPT, seed: 7, n: 2, steps: 4, size: '64x64', model: 'emoji' };
    const others = { prompt: 'a rocket', steps: 4, n: 3 };
    const [response] = await Promise.all([server.post(order), server.post(others), server.post(others)]);
    expect(response.status).toBe(200);
    const pictures = await picturesOf(response.clone());
    expect(pictures).toEqual(sampled(2, PROMPT, '--seed', '7', '--steps', '4', '--scale', '2'));
    const { data, ...rest } = (await response.json()) as { data: object[] };
    expect(rest).toEqual({ created: expect.any(Number), size: '64x64', output_format: 'png' });
    expect(data[1]).toEqual({ b64_json: expect.any(String), seed: 8, truncated: false });
  });

  test('with every setting', async () => {
    const order = {
      prompt: 'a cat',
      negative_prompt: 'blue',
      seed: Number.MAX_SAFE_INTEGER,
      steps: 3,
      cfg_scale: 3.5,
      sampler: 'dpmpp2m',
      guidance_interval: [0.1, 20],
    };
    const flags = ['-n', 'blue', '--seed', String(order.seed), '--steps', '3', '--cfg-scale', '3.5'];
    const more = ['--sampler', 'dpmpp2m', '--guidance-interval', '0.1,20'];
    expect(await picturesOf(await server.post(order))).toEqual(sampled(1, 'a cat', ...flags, ...more));
  });

  test('behind a URL of this server', async () => {
    const response = await server.post({ prompt: PROMPT, seed: 1, steps: 2, response_format: 'url' });
    const { data } = (await response.json()) as { data: { url: string }[] };
    expect(data[0]!.url).toStartWith(`${server.url}/v1/images/files/`);
    const picture = await fetch(data[0]!.url);
    expect(picture.headers.get('content-type')).toBe('image/png');
    const bytes = new Uint8Array(await picture.arrayBuffer());
    expect([bytes]).toEqual(sampled(1, PROMPT, '--seed', '1', '--steps', '2'));
    expect((await fetch(data[0]!.url.replace(/.{5}\.png/, '00000.png'))).status).toBe(404);
  });

  test('a stream: estimates on the way, then the same bytes', async () => {
    const order = { prompt: PROMPT, seed: 7, n: 2, steps: 6, stream: true, partial_images: 2 };
    const response = await server.post(order);
    expect(response.headers.get('content-type')).toBe('text/event-stream; charset=utf-8');
    const events = (await eventsOf(response)).filter(({ type }) => !type.endsWith('queued'));
    const at = (type: string) => events.filter((event) => event.type === `image_generation.${type}`);
    expect(at('partial_image').map(({ index, step }) => [index, step])).toEqual([
      [0, 2],
      [1, 2],
      [0, 4],
      [1, 4],
    ]);
    const estimate = Buffer.from(at('partial_image')[0]!.b64_json, 'base64');
    expect(pngTextOf(estimate, 'estimate')).toEqual({ width: 32, height: 32, texts: [] });
    expect(events.slice(-2).map(({ type, index }) => [type, index])).toEqual([
      ['image_generation.completed', 0],
      ['image_generation.completed', 1],
    ]);
    const bytes = at('completed').map(({ b64_json }) => Uint8Array.from(Buffer.from(b64_json, 'base64')));
    expect(bytes).toEqual(sampled(2, PROMPT, '--seed', '7', '--steps', '6'));
  });

  test('the model is listed, with what the page needs to know', async () => {
    const { data } = (await (await fetch(`${server.url}/v1/models`)).json()) as { data: object[] };
    expect(data).toEqual([
      {
        id: 'emoji',
        object: 'model',
        created: expect.any(Number),
        owned_by: 'microdiff',
        microdiff: {
          side: 32,
          max_scale: 64,
          defaults: { steps: 18, cfg_scale: 2, sampler: 'heun' },
          samplers: ['heun', 'euler', 'dpmpp2m'],
          limits: { n: 10, steps: 250, partial_images: 20, queue: 64 },
        },
      },
    ]);
  });
});

describe('refusals', () => {
  const errorOf = async (response: Response) => {
    expect(response.headers.get('content-type')).toStartWith('application/json');
    const { error } = (await response.json()) as { error: Record<string, unknown> };
    expect(Object.keys(error)).toEqual(['message', 'type', 'param', 'code']);
    return [response.status, error.type, error.param, error.code];
  };
  const BAD = 'invalid_request_error';

  test('bodies that are wrong, too long, or not declared as JSON', async () => {
    expect(await errorOf(await server.post('{"prompt'))).toEqual([400, BAD, null, 'invalid_json']);
    expect(await errorOf(await server.post({ prompt: 3 }))).toEqual([400, BAD, 'prompt', 'invalid_value']);
    const model = await server.post({ prompt: 'a', model: 'dall-e-3' });
    expect(await errorOf(model)).toEqual([404, BAD, 'model', 'model_not_found']);
    const long = { prompt: 'x'.repeat(70_000) };
    expect(await errorOf(await server.post(long))).toEqual([413, BAD, null, 'too_large']);
    const form = { 'content-type': 'application/x-www-form-urlencoded' };
    const plain = { 'content-type': 'text/plain' };
    for (const headers of [form, plain]) {
      expect(await errorOf(await server.post({ prompt: 'a' }, { headers }))).toEqual([
        415,
        BAD,
        null,
        'not_json',
      ]);
    }
  });

  test('a body without a length, and without an end', async () => {
    const line = 'POST /v1/images/generations HTTP/1.1';
    const head = `${line}\r\nHost: localhost\r\nContent-Type: application/json\r\n`;
    const chunk = `1000\r\n${'x'.repeat(4096)}\r\n`;
    const said = await server.raw(
      `${head}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n${chunk.repeat(20)}`,
    );
    expect(said).toStartWith('HTTP/1.1 413');
    expect(said).toContain('"code":"too_large"');
  });

  test('ways that are not there', async () => {
    expect(await errorOf(await fetch(`${server.url}/v1/images`))).toEqual([404, BAD, null, 'not_found']);
    const get = await fetch(`${server.url}/v1/images/generations`);
    expect(get.headers.get('allow')).toBe('POST');
    expect(await errorOf(get)).toEqual([405, BAD, null, 'method_not_allowed']);
    const preflight = await fetch(`${server.url}/v1/images/generations`, { method: 'OPTIONS' });
    expect(preflight.headers.get('access-control-allow-origin')).toBeNull();
    expect(preflight.status).toBe(405);
  });

  test('foreign names and pages, whatever they ask for', async () => {
    const body = '{"prompt":"a","steps":1}';
    const ask = async (path: string, headers: string, method = 'GET') => {
      const length =
        method === 'POST' ? `Content-Type: application/json\r\nContent-Length: ${body.length}\r\n` : '';
      const head = `${method} ${path} HTTP/1.1\r\n${headers}\r\nConnection: close\r\n${length}\r\n`;
      return (await server.raw(method === 'POST' ? head + body : head)).split('\r\n')[0]!.slice(9, 12);
    };
    const own = `Host: 127.0.0.1:${server.port}`;
    for (const [path, method] of [
      ['/', 'GET'],
      ['/page.js', 'GET'],
      ['/health', 'GET'],
      ['/v1/models', 'GET'],
      ['/v1/images/generations', 'POST'],
    ] as const) {
      expect([path, await ask(path, own, method)]).toEqual([path, '200']);
      expect([path, await ask(path, 'Host: evil.example', method)]).toEqual([path, '403']);
      expect([path, await ask(path, `${own}\r\nOrigin: http://evil.example`, method)]).toEqual([path, '403']);
      expect([path, await ask(path, `${own}\r\nOrigin: null`, method)]).toEqual([path, '403']);
    }
    expect(await ask('/v1/models', `${own}\r\nSec-Fetch-Site: cross-site`)).toBe('403');
    expect(
      await ask('/v1/images/generations', `${own}\r\nOrigin: http://127.0.0.1:${server.port}`, 'POST'),
    ).toBe('200');
    expect(await ask('/', 'Host: a b')).not.toBe('200');
  });

  test('headers on the page, on data and on errors', async () => {
    for (const path of ['/', '/page.css', '/health', '/nowhere']) {
      const { headers } = await fetch(`${server.url}${path}`);
      expect(headers.get('content-security-policy')).toStartWith("default-src 'none'; script-src 'self'");
      expect(headers.get('x-content-type-options')).toBe('nosniff');
      expect(headers.get('x-frame-options')).toBe('DENY');
      expect(headers.get('cache-control')).toBe('no-store');
    }
  });
});
