// The page of `serve` in a real browser: a prompt, estimates, the picture and its file, errors, the token,
// and what pages of other sites can do (nothing).
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'bun:test';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pngTextOf } from '../../src/io/png.ts';
import { picturesOf, TestServer } from '../cpu/serve/server.ts';
import { Page } from './page.ts';

const PROMPT = 'a red apple, fluent 3d style';
let server: TestServer;
let page: Page;
beforeAll(async () => {
  server = await TestServer.start();
  page = await Page.open(server.url);
});
afterAll(async () => {
  page.close();
  await server[Symbol.asyncDispose]();
});

describe('the page', () => {
  beforeEach(async () => {
    page.faults.length = 0;
    await page.go(`${server.url}/`);
    await page.until(async () => (await page.text('#engine')).includes('emoji'));
  });

  test('draws what is typed: estimates first, then the picture, which can be had as a file', async () => {
    expect(await page.text('#engine')).toBe('emoji · cpu · ready');
    await page.click('summary');
    await page.fill('#seed', '7');
    await page.fill('#steps', '40');
    await page.click('#prompt');
    await page.type(PROMPT);
    await page.press('Enter');
    await page.until(async () => (await page.text('.how')).startsWith('step '));
    expect(await page.count('.frame img')).toBe(1);
    expect(await page.text('#stop')).toBe('Stop');
    const estimate = await page.value<string>("document.querySelector('.frame img').src");
    await page.until(async () => (await page.count('figcaption a')) === 1);
    expect(await page.text('.how')).toBe('seed 7, 40 steps, guidance 2');
    expect(await page.value<string>("document.querySelector('.frame img').src")).not.toBe(estimate);
    expect(await page.value<number>("document.querySelector('.frame img').naturalWidth")).toBe(256);
    expect(await page.text('#said')).toBe('1 of 1 pictures drawn');

    await page.click('figcaption a');
    const name = 'a-red-apple-fluent-3d-style-7.png';
    await page.until(async () => readdirSync(page.downloads).includes(name));
    const file = Uint8Array.from(readFileSync(join(page.downloads, name)));
    const order = { prompt: PROMPT, seed: 7, steps: 40, size: '256x256' };
    expect([file]).toEqual(await picturesOf(await server.post(order)));
    expect(JSON.parse(pngTextOf(file, name).texts[1]!.text)).toMatchObject({ prompt: PROMPT, seed: 7 });
    expect(page.faults).toEqual([]);
  });

  test('several at once; Escape stops, and the next prompt is drawn', async () => {
    await page.type('a fox');
    await page.click('summary');
    await page.fill('#n', '3');
    await page.fill('#steps', '250');
    await page.press('Enter'); // from a field of the settings, too
    await page.until(async () => (await page.count('.frame img')) === 3);
    await page.press('Escape');
    await page.until(async () => (await page.text('.how')) === 'stopped');
    await server.until((health) => health.in_hand === 0 && health.state === 'ready');
    await page.fill('#steps', '4');
    await page.click('#draw');
    await page.until(async () => (await page.count('figcaption a')) === 3);
    expect(await page.count('figure')).toBe(6);
    expect(page.faults).toEqual([]);
  });

  test('both looks have their colours, and nothing comes from elsewhere', async () => {
    const ground = () => page.value<string>('getComputedStyle(document.body).backgroundColor');
    await page.scheme('light');
    const light = await ground();
    await page.scheme('dark');
    expect([light, await ground()]).toEqual(['rgb(247, 247, 249)', 'rgb(19, 19, 23)']);
    await page.scheme('light');
    const names = "performance.getEntriesByType('resource').map(({ name }) => new URL(name).origin)";
    expect(new Set(await page.value<string[]>(names))).toEqual(new Set([server.url]));
    const inline = `(() => {
      const script = document.createElement('script');
      script.textContent = 'window.injected = 1';
      document.body.append(script);
      return window.injected ?? 'refused';
    })()`;
    expect(await page.value<string>(inline)).toBe('refused');
  });

  test('a prompt is text, whatever is in it', async () => {
    const prompt = '<img src=x onerror="window.injected=1"> & \u{1f98a}';
    await page.type(prompt);
    await page.press('Enter');
    await page.until(async () => (await page.count('figcaption a')) === 1);
    expect(await page.text('figcaption span')).toBe(prompt);
    expect(await page.value<string>("window.injected ?? 'no'")).toBe('no');
    expect(page.faults).toEqual([]);
  });

  test('errors are shown: a setting out of range, an engine that dies', async () => {
    await page.type('a fox');
    await page.value("document.querySelector('#steps').removeAttribute('max')");
    await page.click('summary');
    await page.fill('#steps', '251');
    await page.press('Enter');
    await page.until(async () => (await page.text('#error')) !== '');
    expect(await page.text('#error')).toBe(
      'Could not draw: steps must be a whole number from 1 to 250, got 251',
    );
    await page.fill('#steps', '250');
    await page.press('Enter');
    await server.until((health) => health.in_hand === 1);
    process.kill(server.engine, 'SIGKILL');
    await page.until(async () => (await page.count('.how.bad')) === 1);
    expect(await page.text('.how.bad')).toContain('the engine ended while it drew (SIGKILL)');
    expect(await page.text('#error')).toBe('');
  });
});

test('a token is asked for, taken by a field, and stays out of the address', async () => {
  const token = 'a-secret-of-some-length';
  await using closed = await TestServer.start(['--token', token]);
  await page.go(`${closed.url}/`);
  await page.until(async () => (await page.text('#token-row')).startsWith('Token'));
  await page.fill('#prompt', 'a fox');
  await page.press('Enter');
  await page.until(async () => (await page.text('#error')).includes('a token is needed'));
  await page.click('#token');
  await page.type('wrong-wrong-wrong-wrong');
  await page.click('#draw');
  await page.until(async () => (await page.text('#error')).includes('the token is wrong'));
  await page.fill('#token', token);
  await page.click('#draw');
  await page.until(async () => (await page.count('figcaption a')) === 1);
  expect(await page.text('#error')).toBe('');
  expect(await page.value<string>('location.href')).toBe(`${closed.url}/`);
});

describe('pages of other sites', () => {
  const foreign = Bun.serve({
    hostname: '127.0.0.1',
    port: 0,
    fetch: () => new Response('<title>foreign</title>', { headers: { 'content-type': 'text/html' } }),
  });
  afterAll(() => foreign.stop(true));

  test('cannot order pictures, nor read anything', async () => {
    const before = await server.health();
    await page.go(foreign.url.href);
    const url = `${server.url}/v1/images/generations`;
    const tries = `(async () => {
      const body = '{"prompt": "a fox", "steps": 1}';
      const send = (init) => fetch(${JSON.stringify(url)}, { method: 'POST', body, ...init });
      const plain = { headers: { 'content-type': 'text/plain' } };
      const json = { headers: { 'content-type': 'application/json' } };
      const said = [];
      for (const init of [plain, json, { ...plain, mode: 'no-cors' }]) {
        said.push(await send(init).then((response) => response.type, () => 'refused'));
      }
      const read = fetch(${JSON.stringify(`${server.url}/health`)}).then(() => 'read', () => 'refused');
      return [...said, await read];
    })()`;
    expect(await page.value<string[]>(tries)).toEqual(['refused', 'refused', 'refused', 'refused']);
    const after = await server.health();
    expect([after.pictures, after.failed]).toEqual([before.pictures, before.failed]);
  });

  test('cannot be framed by them, nor reached by a name of theirs', async () => {
    await page.go(`http://evil.example:${server.port}/`);
    expect(await page.value<string>('document.body.innerText')).toContain('foreign_host');
    await page.go(foreign.url.href);
    const framed = `new Promise((resolve) => {
      const frame = document.createElement('iframe');
      frame.src = ${JSON.stringify(`${server.url}/`)};
      frame.onload = () => resolve(frame.contentDocument === null ? 'closed' : 'open');
      document.body.append(frame);
    })`;
    page.faults.length = 0;
    await page.value<string>(framed);
    await page.until(async () => page.faults.some((fault) => /frame-ancestors|X-Frame-Options/i.test(fault)));
  });
});
