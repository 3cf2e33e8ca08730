// A picture from an address: http and https alone, limited in bytes and time, tried again where that may
// help.

const TRIES = 3;
const PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 10_000;

export type Download = { readonly bytes: Uint8Array } | { readonly why: string };

/** Trouble that may be over at the next try. */
interface Trouble {
  readonly why: string;
  readonly again: boolean;
  readonly waitMs?: number;
}

/** The bytes behind an address, or why they cannot be had. `seconds`: of one try, all of it. */
export async function download(url: string, maxBytes: number, seconds: number): Promise<Download> {
  for (let tried = 1; ; tried++) {
    const got = await attempt(url, maxBytes, seconds);
    if ('bytes' in got) return got;
    if (!got.again || tried === TRIES) return { why: tried > 1 ? `${got.why}, ${tried} times` : got.why };
    await Bun.sleep(Math.min(LONGEST_PAUSE_MS, got.waitMs ?? PAUSE_MS * 2 ** (tried - 1)));
  }
}

async function attempt(
  url: string,
  maxBytes: number,
  seconds: number,
): Promise<{ bytes: Uint8Array } | Trouble> {
  try {
    const response = await fetch(url, {
      signal: AbortSignal.timeout(1000 * seconds),
      headers: { 'user-agent': 'microdiff' },
    });
    if (!response.ok) {
      await response.body?.cancel();
      const { status } = response;
      const wait = Number(response.headers.get('retry-after'));
      const again = status === 408 || status === 429 || status >= 500;
      return { why: `the server says ${status}`, again, ...(wait > 0 ? { waitMs: 1000 * wait } : {}) };
    }
    const pieces: Uint8Array[] = [];
    let length = 0;
    for await (const piece of response.body ?? []) {
      length += piece.length;
      if (length > maxBytes) return { why: `it has more than ${maxBytes} bytes`, again: false };
      pieces.push(piece);
    }
    return { bytes: Buffer.concat(pieces) };
  } catch (error) {
    const late = error instanceof Error && error.name === 'TimeoutError';
    const why = late
      ? `no answer within ${seconds} s`
      : error instanceof Error
        ? error.message
        : String(error);
    return { why, again: true };
  }
}
