// Who may ask: hosts, origins, tokens, and the addresses that a server may not open without one.
import { describe, expect, test } from 'bun:test';
import { Refusal } from '../../../src/serve/answer.ts';
import {
  checkGate,
  checkOrigin,
  checkToken,
  type Gate,
  hasToken,
  isLoopback,
} from '../../../src/serve/guard.ts';

const TOKEN = '0123456789abcdef0123';
const here: Gate = { host: '127.0.0.1', names: [], token: undefined };
const open: Gate = { host: '0.0.0.0', names: ['pics.example.org'], token: TOKEN };

/** The code of a refusal, or 'in'. */
function verdict(gate: Gate, headers: Record<string, string>, page = false): string {
  try {
    checkOrigin(new Headers(headers), gate, page);
    return 'in';
  } catch (error) {
    if (error instanceof Refusal) return `${error.status} ${error.code}`;
    throw error;
  }
}

describe('the Host', () => {
  const OUT = '403 foreign_host';
  test.each([
    [here, '127.0.0.1:8484', 'in'],
    [here, 'localhost:8484', 'in'],
    [here, 'LOCALHOST', 'in'],
    [here, '[::1]:8484', 'in'],
    [here, 'localhost:9000', 'in'], // ssh -L 9000:localhost:8484
    [here, 'evil.example', OUT],
    [here, 'localhost.evil.example:8484', OUT],
    [here, '127.0.0.1.evil.example', OUT],
    [here, '127.evil.example', OUT],
    [here, '192.168.0.7:8484', OUT],
    [here, '', OUT],
    [here, 'localhost:8484@evil.example', OUT],
    [here, 'localhost/../x', OUT],
    [here, 'pics.example.org', OUT],
    [open, 'pics.example.org:8484', 'in'],
    [open, 'PICS.example.org', 'in'],
    [open, '192.168.0.7:8484', 'in'], // an address cannot be pointed elsewhere
    [open, '[2001:db8::1]:80', 'in'],
    [open, 'other.example.org', OUT],
    [open, 'x.pics.example.org', OUT],
    [{ ...open, host: 'box.lan' }, 'box.lan:1', 'in'],
  ] as const)('%j %s', (gate, host, expected) => {
    expect(verdict(gate, { host })).toBe(expected);
  });
});

describe('the Origin', () => {
  const OUT = '403 foreign_origin';
  const host = 'localhost:8484';
  test.each([
    [{}, 'in'], // programs send none
    [{ origin: 'http://localhost:8484' }, 'in'],
    [{ origin: 'https://localhost:8484' }, 'in'], // behind a proxy with TLS
    [{ origin: 'http://localhost:3000' }, OUT], // another server on this machine
    [{ origin: 'http://127.0.0.1:8484' }, OUT],
    [{ origin: 'http://evil.example' }, OUT],
    [{ origin: 'null' }, OUT],
    [{ origin: 'http://localhost:8484.evil.example' }, OUT],
    [{ 'sec-fetch-site': 'same-origin' }, 'in'],
    [{ 'sec-fetch-site': 'none' }, 'in'],
    [{ 'sec-fetch-site': 'cross-site' }, OUT],
    [{ 'sec-fetch-site': 'same-site' }, OUT],
  ] as const)('%j', (headers, expected) => {
    expect(verdict(here, { host, ...headers })).toBe(expected);
  });

  test('a link of another site may lead to the page, and to nothing else', () => {
    expect(verdict(here, { host, 'sec-fetch-site': 'cross-site' }, true)).toBe('in');
    expect(verdict(here, { host: 'evil.example' }, true)).toBe('403 foreign_host');
  });
});

describe('the token', () => {
  const shown = (value: string) => hasToken(new Headers({ authorization: value }), open);

  test('as a bearer, whole, and nothing else', () => {
    expect(shown(`Bearer ${TOKEN}`)).toBe(true);
    expect(shown(`bearer  ${TOKEN}`)).toBe(true);
    for (const wrong of [TOKEN, `Basic ${TOKEN}`, 'Bearer', `Bearer ${TOKEN}x`, `Bearer ${TOKEN.slice(1)}`]) {
      expect([wrong, shown(wrong)]).toEqual([wrong, false]);
    }
    expect(hasToken(new Headers(), open)).toBe(false);
    expect(hasToken(new Headers(), here)).toBe(true);
  });

  test('a refusal says what is missing, and never the token', () => {
    for (const shows of [undefined, 'Bearer wrong']) {
      const headers = new Headers(shows === undefined ? {} : { authorization: shows });
      try {
        checkToken(headers, open);
        expect.unreachable();
      } catch (error) {
        const { status, code, message, more } = error as Refusal;
        expect([status, code]).toEqual([401, 'invalid_api_key']);
        expect(message).toContain(shows !== undefined ? 'is wrong' : 'is needed');
        expect(message).not.toContain(TOKEN);
        expect(more.headers).toEqual({ 'www-authenticate': 'Bearer realm="microdiff"' });
      }
    }
  });
});

test('which addresses others cannot reach', () => {
  const all = [
    '127.0.0.1',
    '127.8.0.1',
    '::1',
    'localhost',
    '0.0.0.0',
    '::',
    '10.0.0.1',
    '127.x',
    'localhost.',
  ];
  expect(all.filter(isLoopback)).toEqual(['127.0.0.1', '127.8.0.1', '::1', 'localhost']);
});

test('no server that others can reach without a token, nor with a poor one', () => {
  expect(() => checkGate({ ...open, token: undefined })).toThrow('there is no token');
  expect(() => checkGate({ ...here, host: '::', token: undefined })).toThrow('there is no token');
  expect(() => checkGate({ ...open, token: 'short' })).toThrow('at least 16 characters');
  expect(() => checkGate({ ...here, token: 'with a space and more' })).toThrow('at least 16 characters');
  checkGate(open);
  checkGate(here);
});
