// The HTTP server: routes, and what each of them answers. It computes nothing itself: the engine has a
// process of its own, so that health and queue answer while it draws.
import { SAMPLERS } from '../diffusion/solvers.ts';
import { Failure } from '../io/failure.ts';
import { answer, json, Refusal, refuse } from './answer.ts';
import { checkGate, checkOrigin, checkToken, type Gate, hasToken } from './guard.ts';
import { drawOnce, drawStream } from './images.ts';
import { Keeper } from './keeper.ts';
import { largestScale, type Limits, MAX_BODY, MAX_PARTIAL, readOrder } from './order.ts';
import { PAGE, type PageFile } from './page/files.ts';
import { Queue } from './queue.ts';
import { Shelf } from './shelf.ts';
import type { EngineFacts } from './wire.ts';

export interface ServerOptions extends Gate {
  /** 0 takes a free one. */
  readonly port: number;
  readonly limits: Limits;
  /** The most pictures that may wait. */
  readonly queue: number;
  /** The command line and environment of the engine. */
  readonly command: readonly string[];
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly warn: (line: string) => void;
  /** A line for each order: what came of it, and when. */
  readonly detail: (line: string) => void;
}

const PICTURES = '/v1/images/files/';

export class ImageServer {
  readonly url: string;
  private readonly keeper: Keeper;
  private readonly queue: Queue;
  private readonly shelf = new Shelf();
  private readonly http: Bun.Server<undefined>;
  private readonly begin = Date.now();

  private constructor(private readonly options: ServerOptions) {
    const { host, port, warn, command, env } = options;
    this.keeper = new Keeper({ command, env, warn, onChange: () => this.queue.pump() });
    this.queue = new Queue(this.keeper, options.queue);
    this.http = listen(host, port, (request, http) => this.handle(request, http));
    const name = host.includes(':') ? `[${host}]` : host;
    this.url = `http://${name}:${this.http.port}/`;
  }

  /** Takes the port, then starts the engine; a Failure where either is not possible. */
  static async start(options: ServerOptions): Promise<ImageServer> {
    checkGate(options);
    const server = new ImageServer(options);
    try {
      await server.keeper.start();
    } catch (error) {
      await server.http.stop(true);
      throw error;
    }
    return server;
  }

  get facts(): EngineFacts | null {
    return this.keeper.facts;
  }

  /** Takes nothing more, ends the pictures in hand and their answers, then the engine. */
  async stop(): Promise<void> {
    const listening = this.http.stop();
    await this.queue.close('the server is stopping');
    const late = Bun.sleep(2000); // for clients that do not fetch their answer, or keep a connection open
    await Promise.race([listening, this.answered(), late]);
    await this.http.stop(true);
    await this.keeper.end();
  }

  private async answered(): Promise<void> {
    while (this.http.pendingRequests > 0) await Bun.sleep(10);
    await Bun.sleep(50);
  }

  private async handle(request: Request, http: Bun.Server<undefined>): Promise<Response> {
    try {
      return await this.route(request, http);
    } catch (error) {
      if (error instanceof Refusal) return refuse(error);
      this.options.warn(`internal: ${error instanceof Error ? error.stack : String(error)}`);
      return refuse(new Refusal(500, 'internal_error', 'a fault of the server; its log says more'));
    }
  }

  private route(request: Request, http: Bun.Server<undefined>): Response | Promise<Response> {
    const { options } = this;
    const path = pathOf(request.url);
    const file = Object.hasOwn(PAGE, path) ? PAGE[path] : undefined;
    checkOrigin(request.headers, options, path === '/');
    if (file) return page(request, file);
    if (path === '/health') {
      allow(request, 'GET', 'HEAD');
      return this.health(hasToken(request.headers, options));
    }
    checkToken(request.headers, options);
    if (path === '/v1/models') {
      allow(request, 'GET', 'HEAD');
      return this.models();
    }
    if (path === '/v1/images/generations') {
      allow(request, 'POST');
      return this.generate(request, http);
    }
    if (path.startsWith(PICTURES)) {
      allow(request, 'GET', 'HEAD');
      return this.picture(path.slice(PICTURES.length));
    }
    throw new Refusal(404, 'not_found', `there is no ${path.slice(0, 200)} here`);
  }

  /** All of it for those who may draw; for others, whether there is anything to wait for. */
  private health(whole: boolean): Response {
    const { keeper, queue, options } = this;
    const state = queue.closedFor === null ? keeper.state : 'stopping';
    const well = state === 'ready' || state === 'drawing';
    const facts = {
      model: keeper.facts?.model ?? null,
      device: keeper.facts?.device ?? null,
      queue: queue.length,
      queue_limit: options.queue,
      in_hand: queue.inHand,
      pictures: queue.made,
      failed: queue.failed,
      restarts: keeper.restarts,
      failure: keeper.failure,
      uptime_seconds: Math.round((Date.now() - this.begin) / 100) / 10,
    };
    return json({ state, ...(whole ? facts : {}) }, { status: well ? 200 : 503 });
  }

  private models(): Response {
    const facts = this.ready();
    const { count, steps } = this.options.limits;
    const microdiff = {
      side: facts.side,
      max_scale: largestScale(facts.side),
      defaults: facts.defaults,
      samplers: SAMPLERS,
      limits: { n: count, steps, partial_images: MAX_PARTIAL, queue: this.queue.limit },
    };
    const created = Math.floor(this.begin / 1000);
    const model = { id: facts.model, object: 'model', created, owned_by: 'microdiff', microdiff };
    return json({ object: 'list', data: [model] });
  }

  private async generate(request: Request, http: Bun.Server<undefined>): Promise<Response> {
    const { limits, detail } = this.options;
    const facts = this.ready();
    const order = readOrder(await readBody(request), facts, limits);
    this.ready(); // the body may have taken its time
    const count = order.wanted.length;
    if (!this.queue.hasRoom(count)) {
      const wait = String(this.queue.retryAfter(count));
      const message = `${this.queue.length} of at most ${this.queue.limit} pictures wait: try again later`;
      throw new Refusal(429, 'queue_full', message, { headers: { 'retry-after': wait } });
    }
    http.timeout(request, 0); // it may wait for long
    const parts = { queue: this.queue, signal: request.signal, detail };
    if (order.stream) return drawStream(order, parts);
    const base = new URL(PICTURES, request.url).href;
    return drawOnce(order, { ...parts, keep: (png) => `${base}${this.shelf.put(png)}.png` });
  }

  private picture(name: string): Response {
    const png = this.shelf.get(/^([0-9a-f]{32})\.png$/.exec(name)?.[1] ?? '');
    if (!png) throw new Refusal(404, 'not_found', 'this picture is not kept, or not any more');
    return answer(Uint8Array.from(png), 'image/png');
  }

  /** What the engine is; a Refusal (503) while there is none to draw with. */
  private ready(): EngineFacts {
    const { keeper, queue } = this;
    const retry = { headers: { 'retry-after': '5' } };
    if (queue.closedFor !== null) throw new Refusal(503, 'stopping', queue.closedFor);
    if (keeper.failure !== null) throw new Refusal(503, 'engine_failed', keeper.failure);
    if (!keeper.facts) throw new Refusal(503, 'starting', 'the model is being loaded', retry);
    return keeper.facts;
  }
}

type Handler = (request: Request, http: Bun.Server<undefined>) => Promise<Response>;

function listen(hostname: string, port: number, fetch: Handler): Bun.Server<undefined> {
  try {
    // Bun would answer a long body itself, not in JSON: `readBody` stops it long before this bound.
    const maxRequestBodySize = 2 ** 40;
    return Bun.serve({ hostname, port, fetch, maxRequestBodySize, idleTimeout: 60, development: false });
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    const why =
      code === 'EADDRINUSE' ? 'the port is taken' : `cannot listen there (${String(code ?? error)})`;
    throw new Failure({ what: `${hostname}:${port}`, why, fix: 'Give another --port, or 0 for a free one' });
  }
}

/** The path of a request; a Host that makes no URL is refused where it is looked at. */
function pathOf(url: string): string {
  return URL.parse(url)?.pathname ?? '';
}

function page(request: Request, { body, type }: PageFile): Response {
  allow(request, 'GET', 'HEAD');
  return answer(body, type);
}

function allow({ method }: Request, ...methods: readonly string[]): void {
  if (methods.includes(method)) return;
  const headers = { allow: methods.join(', ') };
  throw new Refusal(405, 'method_not_allowed', `use ${methods.join(' or ')}`, { headers });
}

/** The body of an order, which has to be declared as JSON and short. */
async function readBody(request: Request): Promise<Uint8Array> {
  const type = request.headers.get('content-type') ?? '';
  if (!/^application\/json\s*(;|$)/i.test(type)) {
    throw new Refusal(415, 'not_json', 'send the order as Content-Type: application/json');
  }
  const tooLong = new Refusal(413, 'too_large', `the body is longer than ${MAX_BODY} bytes`);
  if (Number(request.headers.get('content-length') ?? 0) > MAX_BODY) throw tooLong;
  const pieces: Uint8Array[] = [];
  let length = 0;
  for await (const piece of request.body ?? []) {
    length += piece.length;
    if (length > MAX_BODY) throw tooLong;
    pieces.push(piece.slice());
  }
  return Buffer.concat(pieces);
}
