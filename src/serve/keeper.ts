// Keeps the engine's process: starts it, hands it batches, starts it again a limited number of times when it
// dies, and says how it is.
import { EXIT, Failure } from '../io/failure.ts';
import {
  type Drawn,
  type EngineFacts,
  type FromEngine,
  frame,
  type PictureOrder,
  type Preview,
  readFrames,
  type ToEngine,
  type Undrawn,
} from './wire.ts';

export type EngineState = 'starting' | 'ready' | 'drawing' | 'restarting' | 'failed' | 'ended';

/** What is told about the pictures of a batch. */
export type PictureEvent = Preview | Drawn | Undrawn;

export interface KeeperOptions {
  /** The command line of the engine. */
  readonly command: readonly string[];
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Called when the engine can take a batch, and when there is no more hope of that. */
  readonly onChange: () => void;
  /** A line for whoever watches over the server. */
  readonly warn: (line: string) => void;
}

/** Deaths within `WINDOW_MS` after which it is not started again. */
export const MAX_DEATHS = 5;
const WINDOW_MS = 10 * 60_000;

type Process = Bun.Subprocess<'pipe', 'pipe', 'inherit'>;

interface Batch {
  readonly ids: Set<number>;
  readonly listen: (event: PictureEvent) => void;
}

export class Keeper {
  state: EngineState = 'starting';
  /** What the engine said it is; null before it could draw. */
  facts: EngineFacts | null = null;
  /** How often it was started again. */
  restarts = 0;
  /** Why it is not started again. */
  failure: string | null = null;

  private process: Process | null = null;
  private batch: Batch | null = null;
  private deaths: number[] = [];
  private readonly killOnExit = () => this.process?.kill('SIGKILL');

  constructor(private readonly options: KeeperOptions) {}

  /** Starts the engine; settles when it can draw, with a Failure when it cannot. */
  async start(): Promise<EngineFacts> {
    process.on('exit', this.killOnExit);
    const why = await this.launch();
    if (this.facts) return this.facts;
    throw why;
  }

  /** Hands over a batch of pictures that fit together; only while `state` is ready. */
  draw(pictures: readonly PictureOrder[], listen: (event: PictureEvent) => void): void {
    this.batch = { ids: new Set(pictures.map(({ id }) => id)), listen };
    this.state = 'drawing';
    this.send({ kind: 'draw', pictures });
  }

  /** Ends the batch in hand: nobody waits for it. */
  cancel(): void {
    if (this.batch) this.send({ kind: 'cancel' });
  }

  /** Ends the engine; what it has in hand is dropped. */
  async end(): Promise<void> {
    this.state = 'ended';
    const child = this.process;
    await child?.stdin.end();
    // It looks at its pipe between two steps, which may be long: nothing is lost by ending it now.
    const late = setTimeout(() => child?.kill('SIGKILL'), 2000);
    await child?.exited;
    clearTimeout(late);
    process.off('exit', this.killOnExit);
  }

  /** Starts a process and follows it; settles when it is ready, or with why it is not. */
  private launch(): Promise<Failure> {
    const { promise, resolve } = Promise.withResolvers<Failure>();
    const child = Bun.spawn([...this.options.command], {
      env: this.options.env,
      stdin: 'pipe',
      stdout: 'pipe',
      stderr: 'inherit',
    });
    this.process = child;
    void this.follow(child, resolve);
    return promise;
  }

  private async follow(child: Process, settle: (why: Failure) => void): Promise<void> {
    let why = new Failure({ what: 'engine', why: 'ended before it could draw', fix: 'See the lines above' });
    try {
      for await (const message of readFrames<FromEngine>(child.stdout)) {
        if (message.kind === 'unfit') why = notStarted(message);
        else this.take(message);
        if (message.kind === 'ready') settle(why);
      }
    } catch (error) {
      child.kill('SIGKILL');
      this.options.warn(error instanceof Error ? error.message : String(error));
    }
    await child.exited;
    settle(why); // of no effect when it was ready before
    this.buried(child, why);
  }

  private take(message: Exclude<FromEngine, { kind: 'unfit' }>): void {
    if (message.kind === 'ready') {
      const { kind: _, ...facts } = message;
      this.facts = facts;
    }
    if (message.kind === 'ready' || message.kind === 'idle') {
      this.batch = null;
      if (this.state === 'ended') return;
      this.state = 'ready';
      this.options.onChange();
      return;
    }
    if (!this.batch?.ids.has(message.id)) return;
    if (message.kind !== 'preview') this.batch.ids.delete(message.id);
    this.batch.listen(message);
  }

  /** After a death: fails what was in hand, and starts anew unless that has been done too often. */
  private buried(child: Process, why: Failure): void {
    const batch = this.batch;
    this.batch = null;
    const how = child.signalCode ?? `exit code ${child.exitCode}`;
    const again = this.mayRestart();
    if (batch) {
      const next = again ? 'it is started again: ask once more' : 'it is not started again';
      for (const id of batch.ids) {
        batch.listen({ kind: 'failed', id, error: `the engine ended while it drew (${how}); ${next}` });
      }
    }
    if (this.state === 'ended') return;
    if (!again) {
      this.state = 'failed';
      this.failure = this.facts
        ? `the engine ended ${this.deaths.length} times in a short time, last by ${how}`
        : why.message;
      if (this.facts) this.options.warn(`${this.failure}; it is not started again`);
    } else {
      this.state = 'restarting';
      this.restarts++;
      this.options.warn(`the engine ended (${how}); it is started again`);
      void this.launch();
    }
    this.options.onChange();
  }

  /** An engine that never could draw will not do so the next time either. */
  private mayRestart(): boolean {
    const now = Date.now();
    this.deaths = [...this.deaths.filter((then) => now - then < WINDOW_MS), now];
    return this.facts !== null && this.deaths.length <= MAX_DEATHS && this.state !== 'ended';
  }

  private send(message: ToEngine): void {
    const { stdin } = this.process!;
    try {
      stdin.write(frame(message));
      void Promise.resolve(stdin.flush()).catch(() => {}); // a pipe that broke: the process has ended,
    } catch {} // which is dealt with where its end is seen
  }
}

function notStarted({ error, code }: { readonly error: string; readonly code: number }): Failure {
  const known = Object.values(EXIT).find((value) => value === code);
  const colon = error.indexOf(': ');
  const [what, why] = colon < 0 ? ['engine', error] : [error.slice(0, colon), error.slice(colon + 2)];
  return new Failure({ what, why, ...(known === undefined ? {} : { code: known }) });
}
