// Pictures that wait for the engine: first come, first drawn, and with the first all that fit in its batch.
import { fitTogether } from '../sample/sampler.ts';
import type { Keeper, PictureEvent } from './keeper.ts';
import type { PictureOrder } from './wire.ts';

/** What someone who waits for a picture is told: how many are before it, then what the engine says. */
export type QueueEvent = { readonly kind: 'queued'; readonly before: number } | PictureEvent;

export type Wanted = Omit<PictureOrder, 'id'>;
export type Listen = (event: QueueEvent) => void;

interface Entry {
  readonly order: PictureOrder;
  readonly listen: Listen;
}

/** The pictures of one request. */
export interface Handle {
  /** Nobody waits for them any more. */
  cancel(): void;
}

type Engine = Pick<Keeper, 'state' | 'facts' | 'draw' | 'cancel'>;

export class Queue {
  /** Pictures finished, and pictures that could not be made, so far. */
  made = 0;
  failed = 0;
  private waiting: Entry[] = [];
  private hand = new Map<number, Entry>();
  private nextId = 1;
  private secondsEach = 1;
  private closed: string | null = null;
  private idle: (() => void) | null = null;

  constructor(
    private readonly engine: Engine,
    /** The most pictures that may wait. */
    readonly limit: number,
  ) {}

  /** Pictures that wait. */
  get length(): number {
    return this.waiting.length;
  }

  /** Pictures that are being drawn. */
  get inHand(): number {
    return this.hand.size;
  }

  /** Seconds until `count` more pictures will probably fit, from 1 to 600. */
  retryAfter(count: number): number {
    const tooMany = Math.max(1, this.waiting.length + count - this.limit);
    return Math.min(600, Math.max(1, Math.ceil(tooMany * this.secondsEach)));
  }

  /** Whether `count` more pictures may wait now. */
  hasRoom(count: number): boolean {
    return this.waiting.length + count <= this.limit;
  }

  /** Adds the pictures of a request; `listen` hears of each by its place in the request. */
  add(wanted: readonly Wanted[], listen: (event: QueueEvent, place: number) => void): Handle {
    const entries = wanted.map((one, place): Entry => {
      return { order: { ...one, id: this.nextId++ }, listen: (event) => listen(event, place) };
    });
    this.waiting.push(...entries);
    this.pump();
    this.tellPlaces(entries);
    return { cancel: () => this.cancel(entries) };
  }

  /** Hands the next batch to the engine where it is ready; called whenever that may have changed. */
  pump(): void {
    const { engine } = this;
    if (engine.state === 'failed') this.failWaiting('the engine does not run');
    if (engine.state === 'ready') this.hand.clear(); // a cancelled batch is over
    const [first] = this.waiting;
    if (engine.state !== 'ready' || !first || !engine.facts) {
      if (this.hand.size === 0) this.idle?.();
      return;
    }
    const batch: Entry[] = [];
    const rest: Entry[] = [];
    for (const entry of this.waiting) {
      const fits =
        batch.length < engine.facts.batch && fitTogether(first.order.settings, entry.order.settings);
      (fits ? batch : rest).push(entry);
    }
    this.waiting = rest;
    this.hand = new Map(batch.map((entry) => [entry.order.id, entry]));
    this.tellPlaces(this.waiting);
    engine.draw(
      batch.map(({ order }) => order),
      (event) => this.hear(event),
    );
  }

  /** Takes no more; fails what waits and settles when nothing is in hand. */
  close(why: string): Promise<void> {
    this.closed = why;
    this.failWaiting(why);
    const { promise, resolve } = Promise.withResolvers<void>();
    this.idle = resolve;
    if (this.hand.size === 0) resolve();
    return promise;
  }

  /** Why nothing is taken any more; null while it is. */
  get closedFor(): string | null {
    return this.closed;
  }

  private hear(event: PictureEvent): void {
    const entry = this.hand.get(event.id);
    if (event.kind !== 'preview') this.hand.delete(event.id);
    if (event.kind === 'picture') {
      this.made++;
      this.secondsEach = event.seconds;
    }
    if (event.kind === 'failed') this.failed++;
    entry?.listen(event);
    if (this.hand.size === 0) this.idle?.();
  }

  private cancel(entries: readonly Entry[]): void {
    const gone = new Set(entries);
    this.waiting = this.waiting.filter((entry) => !gone.has(entry));
    const before = this.hand.size;
    for (const [id, entry] of this.hand) if (gone.has(entry)) this.hand.delete(id);
    // What others wait for is drawn to its end.
    if (before > 0 && this.hand.size === 0) {
      this.engine.cancel();
      this.idle?.();
    }
    this.tellPlaces(this.waiting);
  }

  private failWaiting(error: string): void {
    const entries = this.waiting;
    this.waiting = [];
    for (const { order, listen } of entries) {
      this.failed++;
      listen({ kind: 'failed', id: order.id, error });
    }
  }

  private tellPlaces(entries: readonly Entry[]): void {
    for (const entry of entries) {
      const place = this.waiting.indexOf(entry);
      if (place >= 0) entry.listen({ kind: 'queued', before: this.hand.size + place });
    }
  }
}
