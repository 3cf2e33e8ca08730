// Files behind an address: http(s)://HOST/FOLDER and s3://BUCKET/FOLDER (requests signed with the credentials
// of the environment), whole or by byte ranges. What is broken off is gone on with, trouble that may pass is
// tried again after a pause; what stays is a Failure that names the address, without its query.

import { S3Client } from 'bun';
import { EXIT, Failure } from './failure.ts';
import { type Answer, ask, type Net, NET, netTrouble, Passing, retryAfter } from './hub/http.ts';

export interface RemoteSettings {
  /** A connection that is silent for so long is given up. */
  readonly stallMs: number;
  /** First pause before trying again; each one after it is twice as long. */
  readonly retryMs: number;
}

/** Tries in a row that bring nothing. */
const TRIES = 6;
const LONGEST_PAUSE_MS = 60_000;
/** Signed addresses are good for so long. */
const SIGNED_SECONDS = 3600;

export function isRemote(path: string): boolean {
  return /^[a-z][a-z0-9+.-]*:\/\//i.test(path);
}

/** A folder behind an address. */
export class Remote {
  private readonly net: Net;

  /** Throws a Failure for addresses of other kinds. */
  constructor(
    private readonly base: string,
    private readonly settings: RemoteSettings = NET,
  ) {
    const url = URL.parse(base);
    if (!url || !['http:', 'https:', 's3:'].includes(url.protocol)) {
      const why = 'this kind of address is not read';
      throw new Failure({ what: base, why, fix: 'Use http://, https:// or s3://', code: EXIT.usage });
    }
    const { stallMs, retryMs } = settings;
    this.net = { token: undefined, home: base, userAgent: 'microdiff', stallMs, retryMs, note: () => {} };
  }

  /** The address of a file, as it stands in messages. */
  address(name: string): string {
    const url = new URL(this.base);
    return `${url.protocol}//${url.host}${url.pathname.replace(/\/$/, '')}/${name}`;
  }

  /** Whether the server gives parts of a file, which has more than 8 bytes. */
  async hasRanges(name: string): Promise<boolean> {
    let has = false;
    await this.retried(name, async () => {
      const answer = await this.open(name, 'bytes=4-7');
      has = answer.response.status === 206;
      answer.close();
    });
    return has;
  }

  /** Bytes begin..end-1 of a file. */
  async range(name: string, begin: number, end: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(end - begin);
    let done = 0;
    await this.retried(name, async (progressed) => {
      if (done === bytes.length) return;
      const range = `bytes=${begin + done}-${end - 1}`;
      const answer = await this.open(name, range);
      // A whole file in place of a range is as good where the range begins it.
      const from = answer.response.status === 206 ? rangeStart(answer) : 0;
      if (from !== begin + done) {
        answer.close();
        const why = 'the server does not give the byte ranges that it is asked for';
        throw new Failure({ what: this.address(name), why, fix: 'Copy the set to this machine' });
      }
      await this.pieces(answer, (piece) => {
        const part = piece.subarray(0, bytes.length - done);
        bytes.set(part, done);
        done += part.length;
        progressed();
        return done < bytes.length;
      });
      if (done < bytes.length)
        throw new Passing(`the connection ended after ${done} of ${bytes.length} bytes`);
    });
    return bytes;
  }

  /** A whole file of at most `limit` bytes. */
  async whole(name: string, limit: number): Promise<Uint8Array> {
    let pieces: Uint8Array[] = [];
    await this.retried(name, async () => {
      pieces = [];
      let total = 0;
      const answer = await this.open(name, undefined);
      await this.pieces(answer, (piece) => {
        pieces.push(piece);
        total += piece.length;
        return total <= limit;
      });
      const length = Number(answer.response.headers.get('content-length') ?? total);
      if (total > limit) throw new Failure({ what: this.address(name), why: `has more than ${limit} bytes` });
      if (total < length) throw new Passing(`the connection ended after ${total} of ${length} bytes`);
    });
    return Buffer.concat(pieces);
  }

  /** Gives the pieces of a body to `take` until it returns false. */
  private async pieces(answer: Answer, take: (piece: Uint8Array) => boolean): Promise<void> {
    try {
      const reader = answer.response.body?.getReader();
      for (;;) {
        const read = await reader?.read();
        if (!read || read.done) return;
        answer.alive();
        if (!take(read.value)) return;
      }
    } catch (error) {
      throw netTrouble(this.net, error, answer.url.host);
    } finally {
      answer.close();
    }
  }

  private async open(name: string, range: string | undefined): Promise<Answer> {
    const answer = await ask(this.net, this.signed(name), range === undefined ? {} : { range });
    const { status, headers } = answer.response;
    if (status < 300) return answer;
    answer.close();
    const said = `${answer.url.host} says HTTP ${status}`;
    if (status === 429 || status >= 500 || status === 408 || status === 425) {
      throw new Passing(said, retryAfter(headers));
    }
    const refused = status === 401 || status === 403;
    const fix = refused ? 'Check the credentials and who may read it' : 'Check the address';
    throw new Failure({ what: this.address(name), why: said, fix });
  }

  private async retried(name: string, action: (progressed: () => void) => Promise<void>): Promise<void> {
    let failures = 0;
    for (;;) {
      try {
        return await action(() => {
          failures = 0;
        });
      } catch (error) {
        if (!(error instanceof Passing)) throw error;
        failures++;
        if (failures >= TRIES || (error.waitMs ?? 0) > LONGEST_PAUSE_MS) {
          const why = `${error.message}; gave up after ${failures} tries`;
          throw new Failure({ what: this.address(name), why, fix: 'Check the network and start again' });
        }
        const pause = Math.min(LONGEST_PAUSE_MS, this.settings.retryMs * 2 ** (failures - 1));
        await Bun.sleep(error.waitMs ?? pause * (0.75 + Math.random() / 2));
      }
    }
  }

  /** The address to ask; that of an S3 object carries a signature. */
  private signed(name: string): string {
    const url = new URL(this.base);
    const path = `${url.pathname.replace(/\/$/, '')}/${name.split('/').map(encodeURIComponent).join('/')}`;
    if (url.protocol !== 's3:') {
      url.pathname = path;
      return url.href;
    }
    const key = `${decoded(this.base.replace(/^s3:\/\/[^/]*/i, '')).replace(/\/$/, '')}/${name}`.slice(1);
    try {
      return new S3Client({ bucket: url.host }).presign(key, { method: 'GET', expiresIn: SIGNED_SECONDS });
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      const fix =
        'Set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION, or S3_ENDPOINT for other stores';
      throw new Failure({ what: this.address(name), why: `cannot be signed for: ${why}`, fix });
    }
  }
}

/** Names of objects may hold what looks like an escape and is none. */
function decoded(path: string): string {
  try {
    return decodeURIComponent(path);
  } catch {
    return path;
  }
}

function rangeStart({ response }: Answer): number {
  return Number(/^bytes (\d+)-/.exec(response.headers.get('content-range') ?? '')?.[1] ?? Number.NaN);
}
