// A hub and its storage on two ports of this machine, which misbehave as they are told: for tests of pull.

import { createServer, type Socket } from 'node:net';

export const COMMIT = 'c0ffee'.padEnd(40, '0');

export const sha256 = (bytes: Uint8Array) => new Bun.CryptoHasher('sha256').update(bytes).digest('hex');
const gitSha = (bytes: Uint8Array) =>
  new Bun.CryptoHasher('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex');

/** Bytes that look random and are the same each time. */
export function noise(length: number, seed = 1): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let i = 0, x = seed; i < length; i++) {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    bytes[i] = x >>> 24;
  }
  return bytes;
}

export interface Seen {
  readonly host: 'hub' | 'storage';
  readonly method: string;
  readonly path: string;
  readonly range: string | undefined;
  readonly token: string | undefined;
}

type Misdeed = (seen: Seen, count: number) => Answer | undefined;

/** An answer written on the socket byte by byte: headers may lie. */
export interface Answer {
  readonly status: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Uint8Array;
  /** Closes the socket after so many bytes of the body. */
  readonly cut?: number;
  /** Milliseconds between pieces of 64 kB. */
  readonly pause?: number;
  /** Sends the headers and the cut body, then nothing more. */
  readonly hang?: boolean;
}

/** A hub with files by `ORG/NAME/PATH`; big ones redirect to the storage, on another port. */
export async function startHub(files: Record<string, Uint8Array>, misdeed: Misdeed = () => undefined) {
  const seen: Seen[] = [];
  const state = { misdeed, commit: COMMIT, big: 1000, storage: '' };
  const answer = (one: Seen): Answer => {
    const count = seen.filter(({ host, method }) => host === one.host && method === one.method).length;
    seen.push(one);
    return (
      state.misdeed(one, count) ??
      (one.host === 'hub' ? hub(one) : serve(one, files[one.path.slice(1).split('?')[0]!]))
    );
  };
  const hub = (one: Seen): Answer => {
    const match = /^\/([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/.exec(one.path);
    const key = match ? `${match[1]}/${match[3]}` : '';
    const bytes = files[key];
    if (!bytes) return { status: 404, headers: { 'x-error-code': 'EntryNotFound' } };
    const headers = { 'x-repo-commit': state.commit };
    if (bytes.length < state.big) {
      return serve(one, bytes, { ...headers, etag: `"${gitSha(bytes)}"` });
    }
    return {
      status: 302,
      headers: {
        ...headers,
        etag: '"something-else"',
        'x-linked-etag': `"${sha256(bytes)}"`,
        'x-linked-size': String(bytes.length),
        location: `${state.storage}/${key}?signature=${seen.length}`,
      },
    };
  };
  const storage = await listen('storage', answer);
  const front = await listen('hub', answer);
  state.storage = storage.url;
  return {
    url: front.url,
    seen,
    state,
    stop() {
      storage.stop();
      front.stop();
    },
  };
}

export function serve(
  one: Seen,
  bytes: Uint8Array | undefined,
  headers: Record<string, string> = {},
): Answer {
  if (!bytes) return { status: 404 };
  const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(one.range ?? '') ?? [];
  if (from === undefined) return { status: 200, headers, body: bytes };
  if (Number(from) >= bytes.length) return { status: 416 };
  const body = bytes.subarray(Number(from), Number(to) + 1);
  const range = `bytes ${from}-${Number(from) + body.length - 1}/${bytes.length}`;
  return { status: 206, headers: { ...headers, 'content-range': range }, body };
}

async function listen(host: Seen['host'], answer: (seen: Seen) => Answer) {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    socket.on('error', () => {});
    let text = '';
    socket.on('data', (data) => {
      text += data.toString('latin1');
      if (!text.includes('\r\n\r\n')) return;
      const [first = '', ...lines] = text.split('\r\n');
      text = '';
      const [method = '', path = ''] = first.split(' ');
      const header = (name: string) =>
        lines.find((line) => line.toLowerCase().startsWith(`${name}: `))?.slice(name.length + 2);
      const token = header('authorization');
      void send(socket, method, answer({ host, method, path, range: header('range'), token }));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  const port = typeof address === 'object' ? address?.port : 0;
  return {
    // Two names of this machine, so that the origins differ in more than the port.
    url: `http://${host === 'hub' ? '127.0.0.1' : 'localhost'}:${port}`,
    stop() {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}

async function send(socket: Socket, method: string, answer: Answer): Promise<void> {
  const { status, body = new Uint8Array(), cut } = answer;
  const headers = { 'content-length': String(body.length), connection: 'close', ...answer.headers };
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.write(`HTTP/1.1 ${status} Status\r\n${lines.join('')}\r\n`);
  const bytes = method === 'HEAD' ? new Uint8Array() : body.subarray(0, cut ?? body.length);
  if (answer.pause === undefined) socket.write(bytes);
  else {
    for (let at = 0; at < bytes.length && !socket.destroyed; at += 65536) {
      socket.write(bytes.subarray(at, at + 65536));
      await Bun.sleep(answer.pause);
    }
  }
  if (answer.hang) return;
  socket.end();
}
