// Requests to a hub and what it redirects to: the token stays with the hub's host, trouble that may pass is
// told from trouble that stays, and the first is tried again after a pause.

import { Failure } from '../failure.ts';

export interface Net {
  /** Goes to addresses of `home`'s origin alone. */
  readonly token: string | undefined;
  /** The hub's address. */
  readonly home: string;
  readonly userAgent: string;
  /** Ends everything under way. */
  readonly signal?: AbortSignal;
  /** A connection that is silent for so long is given up. */
  readonly stallMs: number;
  /** First pause before trying again; each one after it is twice as long. */
  readonly retryMs: number;
  /** Told of every pause. */
  readonly note: (line: string) => void;
}

export const NET = { stallMs: 30_000, retryMs: 1000 } as const;

/** Trouble that may be over in a moment. */
export class Passing extends Error {
  constructor(
    message: string,
    readonly waitMs?: number,
  ) {
    super(message);
  }
}

/** The user's signal came. */
export class Stopped extends Error {}

const TRIES = 5;
const LONGEST_PAUSE_MS = 60_000;
/** A server that wants us to wait longer than this is told to the user instead. */
const LONGEST_WAIT_MS = 600_000;
const REDIRECTS = 10;

/** Counts failures in a row and waits between them. */
export class Retries {
  #failures = 0;

  constructor(
    private readonly net: Net,
    private readonly what: string,
  ) {}

  /** Something came: what follows is a new row. */
  progressed(): void {
    this.#failures = 0;
  }

  /** Waits for the next try. Throws what cannot pass, and a Failure after the last try. */
  async wait(error: unknown): Promise<void> {
    if (this.net.signal?.aborted) throw new Stopped('stopped');
    if (!(error instanceof Passing)) throw error;
    this.#failures++;
    if (this.#failures >= TRIES || (error.waitMs ?? 0) > LONGEST_WAIT_MS) {
      const long = error.waitMs ? `, and asks to wait ${Math.ceil(error.waitMs / 1000)} s` : '';
      const tries = this.#failures === 1 ? '1 try' : `${this.#failures} tries`;
      throw new Failure({
        what: this.what,
        why: `${error.message}${long}; gave up after ${tries}`,
        fix: 'Run the same command again: it goes on from what is there (HF_ENDPOINT names another hub)',
      });
    }
    const pause = Math.min(LONGEST_PAUSE_MS, this.net.retryMs * 2 ** (this.#failures - 1));
    const waitMs = error.waitMs ?? pause * (0.75 + Math.random() / 2);
    this.net.note(`${this.what}: ${error.message}; trying again in ${(waitMs / 1000).toFixed(1)} s`);
    await sleep(waitMs, this.net.signal);
  }
}

/** Runs `action` until it succeeds or fails for good. */
export async function retrying<T>(net: Net, what: string, action: () => Promise<T>): Promise<T> {
  const retries = new Retries(net, what);
  for (;;) {
    try {
      return await action();
    } catch (error) {
      await retries.wait(error);
    }
  }
}

export interface Asked {
  readonly method?: 'HEAD' | 'GET';
  readonly range?: string;
  /** Whether to follow the redirect of this response to `next`. */
  readonly follow?: (response: Response, next: URL) => boolean;
}

export interface Answer {
  readonly response: Response;
  /** The address that answered, after redirects. */
  readonly url: URL;
  /** Must be called for each piece of the body, or the connection counts as silent. */
  readonly alive: () => void;
  /** Ends the connection. */
  readonly close: () => void;
}

/**
 * One request, redirects followed by hand. Throws Passing for trouble of the network; the status of the
 * answer is the caller's to judge.
 */
export async function ask(net: Net, address: string, asked: Asked = {}): Promise<Answer> {
  let url = new URL(address);
  for (let hops = 0; hops <= REDIRECTS; hops++) {
    const answer = await askOnce(net, url, asked);
    const { response } = answer;
    const location = response.headers.get('location');
    if (response.status < 300 || response.status >= 400 || location === null) return answer;
    const next = URL.parse(location, url.href);
    if (next === null || !/^https?:$/.test(next.protocol)) {
      answer.close();
      throw new Failure({ what: url.origin, why: `redirects to ${location}, which is no web address` });
    }
    if (asked.follow && !asked.follow(response, next)) return answer;
    answer.close();
    url = next;
  }
  throw new Failure({ what: address, why: 'redirects in a circle', fix: 'Check HF_ENDPOINT' });
}

async function askOnce(net: Net, url: URL, asked: Asked): Promise<Answer> {
  if (net.signal?.aborted) throw new Stopped('stopped');
  const control = new AbortController();
  const stop = () => control.abort();
  net.signal?.addEventListener('abort', stop, { once: true });
  let timer = setTimeout(stop, net.stallMs);
  const alive = () => {
    clearTimeout(timer);
    timer = setTimeout(stop, net.stallMs);
  };
  const close = () => {
    clearTimeout(timer);
    net.signal?.removeEventListener('abort', stop);
    control.abort();
  };
  const headers = new Headers({ 'user-agent': net.userAgent, 'accept-encoding': 'identity' });
  if (asked.range) headers.set('range', asked.range);
  if (net.token && url.origin === new URL(net.home).origin) {
    headers.set('authorization', `Bearer ${net.token}`);
  }
  try {
    const method = asked.method ?? 'GET';
    const response = await fetch(url.href, { method, headers, redirect: 'manual', signal: control.signal });
    return { response, url, alive, close };
  } catch (error) {
    close();
    throw netTrouble(net, error, url.host);
  }
}

/** What an error of a request or of its body means. */
export function netTrouble(net: Net, error: unknown, host: string): unknown {
  if (net.signal?.aborted) return new Stopped('stopped');
  if (error instanceof Failure || error instanceof Passing) return error;
  if (!(error instanceof Error)) return error;
  if (error.name === 'AbortError') return new Passing(`${host} was silent for ${net.stallMs / 1000} s`);
  const code = 'code' in error ? String(error.code) : '';
  const words: Record<string, string> = {
    ConnectionRefused: `${host} refuses the connection`,
    FailedToOpenSocket: `cannot reach ${host}`,
    ConnectionClosed: `${host} closed the connection`,
    ECONNRESET: `${host} dropped the connection`,
    ENOTFOUND: `${host} is not known: is this machine online?`,
  };
  const known = words[code] ?? (code || error instanceof TypeError ? `${host}: ${error.message}` : undefined);
  return known === undefined ? error : new Passing(known);
}

/** Throws for a status that is not a success: Passing where it may pass, else a Failure on `what`. */
export function checkStatus(net: Net, { response, url, close }: Answer, what: string): void {
  const { status, headers } = response;
  if (status < 300) return;
  close();
  const atHub = url.origin === new URL(net.home).origin;
  if (status === 429 || status >= 500 || status === 408 || status === 425) {
    throw new Passing(`${url.host} says HTTP ${status}`, retryAfter(headers));
  }
  // Signed addresses of the storage behind a hub run out; a new one is asked for.
  if (!atHub && [400, 401, 403, 404, 410].includes(status)) {
    throw new Passing(`${url.host} says HTTP ${status}: the address may have run out`);
  }
  const code = headers.get('x-error-code');
  const message = headers.get('x-error-message') ?? '';
  const said = `${url.host} says HTTP ${status}${code ? ` ${code}` : ''}${message ? ` (${message})` : ''}`;
  throw new Failure({ what, why: said, fix: remedy(status, net.token !== undefined) });
}

function remedy(status: number, hasToken: boolean): string {
  if (status === 401 && hasToken) return 'Set HF_TOKEN to a token that the hub accepts, or to nothing';
  if (status === 401) return 'It is gated, private or gone: set HF_TOKEN to a token that may read it';
  if (status === 403) return 'Accept its terms on its page, with the account of HF_TOKEN';
  if (status === 404) return 'It is not there (any more); HF_ENDPOINT names another hub';
  return 'Check HF_ENDPOINT';
}

/** Milliseconds that a server asks to wait: Retry-After (seconds or a date), or t= of the hub's RateLimit. */
export function retryAfter(headers: Headers, now = Date.now()): number | undefined {
  const after = headers.get('retry-after')?.trim();
  if (after && /^\d+(\.\d+)?$/.test(after)) return Number(after) * 1000;
  const date = after ? Date.parse(after) : Number.NaN;
  if (Number.isFinite(date)) return Math.max(0, date - now);
  const reset = /\bt=(\d+)/.exec(headers.get('ratelimit') ?? '');
  return reset ? Number(reset[1]) * 1000 : undefined;
}

async function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  signal?.addEventListener('abort', () => resolve(), { once: true });
  await promise;
  clearTimeout(timer);
  if (signal?.aborted) throw new Stopped('stopped');
}
