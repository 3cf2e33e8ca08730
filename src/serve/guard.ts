// Who may ask: the checks that every request passes before anything of it is read.
//
// A page of another site, open in a browser on this machine, can send requests here. Three rules keep it out:
// the Host must be a name of this server (a foreign name that was pointed at this address is refused), an
// Origin must be this server itself, and orders must be declared as JSON, which no plain form can do.
// A token, where there is one, is compared without telling by the time it takes how much of it was right.
import { createHash, timingSafeEqual } from 'node:crypto';
import { isIP } from 'node:net';
import { EXIT, Failure } from '../io/failure.ts';
import { Refusal } from './answer.ts';

export interface Gate {
  /** The address that the server is bound to. */
  readonly host: string;
  /** Further names by which it may be called, in lower case. */
  readonly names: readonly string[];
  readonly token: string | undefined;
}

/** Whether only this machine can reach an address. */
export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'));
}

/** A token has at least this many characters. */
export const TOKEN_LENGTH = 16;

/** Failure unless a server at this address may start: others may reach it only with a token. */
export function checkGate({ host, token }: Gate): void {
  if (token === undefined && !isLoopback(host)) {
    throw new Failure({
      what: `--host ${host}`,
      why: 'others can reach this address, and there is no token',
      fix: 'Set MICRODIFF_TOKEN to a secret, such as `openssl rand -hex 32` prints, or leave --host out',
      code: EXIT.usage,
    });
  }
  if (token !== undefined && (token.length < TOKEN_LENGTH || !/^[\x21-\x7e]*$/.test(token))) {
    throw new Failure({
      what: 'token',
      why: `needs at least ${TOKEN_LENGTH} characters, all of them letters, digits or signs of ASCII`,
      fix: '`openssl rand -hex 32` makes one',
      code: EXIT.usage,
    });
  }
}

/** Refuses a request whose Host or Origin is another's. `page`: a plain link may lead here. */
export function checkOrigin(headers: Headers, gate: Gate, page: boolean): void {
  const host = headers.get('host') ?? '';
  if (!isOurs(hostname(host), gate)) {
    const message = `the Host ${JSON.stringify(host.slice(0, 100))} is none of this server's`;
    throw new Refusal(403, 'foreign_host', message);
  }
  const origin = headers.get('origin');
  if (origin !== null && origin !== `http://${host}` && origin !== `https://${host}`) {
    throw new Refusal(403, 'foreign_origin', `requests from pages of ${origin} are refused`);
  }
  const site = headers.get('sec-fetch-site') ?? 'none';
  if (!page && site !== 'none' && site !== 'same-origin') {
    throw new Refusal(403, 'foreign_origin', 'requests from pages of other sites are refused');
  }
}

/** The name in a Host header, in lower case without the port; undefined where it is none. */
function hostname(host: string): string | undefined {
  const [, v6, name] = /^(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::\d{1,5})?$/i.exec(host) ?? [];
  return (v6 ?? name)?.toLowerCase();
}

/** An address cannot be pointed elsewhere as a name can: where others may reach us, any address will do. */
function isOurs(name: string | undefined, { host, names }: Gate): boolean {
  if (name === undefined) return false;
  if (isLoopback(name) || names.includes(name)) return true;
  return !isLoopback(host) && (name === host.toLowerCase() || isIP(name) !== 0);
}

/** Whether a request shows the token; always, where there is none. */
export function hasToken(headers: Headers, { token }: Gate): boolean {
  if (token === undefined) return true;
  const shown = /^Bearer +(\S+)$/i.exec(headers.get('authorization') ?? '')?.[1] ?? '';
  return timingSafeEqual(digest(shown), digest(token));
}

/** Of one length, whatever was shown. */
function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}

export function checkToken(headers: Headers, gate: Gate): void {
  if (hasToken(headers, gate)) return;
  const message = headers.has('authorization')
    ? 'the token is wrong'
    : 'a token is needed: send it as "Authorization: Bearer TOKEN"';
  const challenge = { 'www-authenticate': 'Bearer realm="microdiff"' };
  throw new Refusal(401, 'invalid_api_key', message, { headers: challenge });
}
