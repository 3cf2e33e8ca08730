// `microdiff serve` as a child process on a free port, for tests that speak HTTP with it.
import { readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';

const MAIN = join(import.meta.dir, '../../../src/cli/main.ts');
export const PROGRAM = [process.execPath, MAIN];
export const ENV = { ...process.env, FORCE_COLOR: '', MICRODIFF_DEVICE: 'cpu', MICRODIFF_TOKEN: '' };

/** Starts `serve` and does not wait. */
export function spawnServer(args: readonly string[], env: Record<string, string> = {}, port = 0) {
  return Bun.spawn([...PROGRAM, 'serve', '--port', String(port), '--threads', '1', ...args], {
    env: { ...ENV, ...env },
    stdin: 'ignore',
    stdout: 'pipe',
    stderr: 'pipe',
  });
}

export interface Health {
  readonly state: string;
  readonly model: string;
  readonly queue: number;
  readonly in_hand: number;
  readonly pictures: number;
  readonly failed: number;
  readonly restarts: number;
  readonly failure: string | null;
}

/** A server that runs; `await using` ends it. */
export class TestServer implements AsyncDisposable {
  private constructor(
    readonly child: ReturnType<typeof spawnServer>,
    /** Without the slash at its end. */
    readonly url: string,
  ) {}

  static async start(args: readonly string[] = [], env: Record<string, string> = {}): Promise<TestServer> {
    const child = spawnServer(args, env);
    const { value } = await child.stdout.getReader().read();
    const url = new TextDecoder().decode(value).trim();
    if (!url) throw new Error(`serve did not start: ${await child.stderr.text()}`);
    return new TestServer(child, url.replace('0.0.0.0', '127.0.0.1').replace(/\/$/, ''));
  }

  get port(): number {
    return Number(new URL(this.url).port);
  }

  /** Asks for pictures; `body` is JSON already when it is a text. */
  async post(body: unknown, init: RequestInit = {}): Promise<Response> {
    return fetch(`${this.url}/v1/images/generations`, {
      method: 'POST',
      body: typeof body === 'string' ? body : JSON.stringify(body),
      ...init,
      headers: { 'content-type': 'application/json', ...(init.headers as Record<string, string>) },
    });
  }

  async health(): Promise<Health> {
    return (await fetch(`${this.url}/health`)).json() as Promise<Health>;
  }

  /** Waits until health says so. */
  async until(there: (health: Health) => boolean): Promise<Health> {
    for (;;) {
      const health = await this.health();
      if (there(health)) return health;
      await Bun.sleep(10);
    }
  }

  /** What comes back for bytes as they are; fetch would not send some of them. */
  async raw(text: string): Promise<string> {
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    let said = '';
    const socket = connect(this.port, '127.0.0.1', () => socket.write(text));
    socket.on('data', (data) => {
      said += data.toString();
    });
    socket.on('close', () => resolve(said)).on('error', reject);
    return promise;
  }

  /** The engine's process. */
  get engine(): number {
    const { pid } = this.child;
    return Number(readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ')[0]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.child.kill('SIGKILL');
    await this.child.exited;
  }
}

/** Pictures of an answer, as PNG bytes. */
export async function picturesOf(response: { json(): Promise<unknown> }): Promise<Uint8Array<ArrayBuffer>[]> {
  const body = (await response.json()) as { data?: { b64_json: string }[]; error?: { message: string } };
  if (!body.data) throw new Error(body.error?.message);
  return body.data.map(({ b64_json }) => Uint8Array.from(Buffer.from(b64_json, 'base64')));
}

export interface StreamEvent {
  readonly type: string;
  readonly index: number;
  readonly b64_json: string;
  readonly step: number;
  readonly error?: { readonly message: string };
}

/** The events of a stream, to its end. */
export async function eventsOf(response: Response): Promise<StreamEvent[]> {
  const blocks = (await response.text()).split('\n\n').filter((block) => block.startsWith('event: '));
  return blocks.map((block) => {
    const [first, second] = block.split('\n');
    const event = JSON.parse(second!.replace(/^data: /, '')) as StreamEvent;
    if (first !== `event: ${event.type}`) throw new Error(`the names differ: ${block.slice(0, 100)}`);
    return event;
  });
}

/** Whether a process is there. */
export function isAlive(pid: number): boolean {
  try {
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}
