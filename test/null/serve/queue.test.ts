// The queue in front of an engine that is only played: order, batches, limits, cancelling, closing; and the
// shelf of pictures behind URLs.
import { describe, expect, test } from 'bun:test';
import type { PictureEvent } from '../../../src/serve/keeper.ts';
import { Queue, type QueueEvent, type Wanted } from '../../../src/serve/queue.ts';
import { Shelf } from '../../../src/serve/shelf.ts';
import type { EngineFacts, PictureOrder } from '../../../src/serve/wire.ts';

const facts: EngineFacts = {
  model: 'm',
  device: 'cpu',
  side: 8,
  batch: 3,
  defaults: { steps: 1, cfg_scale: 1, sampler: 'heun' },
};

/** An engine that draws when the test says so. */
class Played {
  state: 'ready' | 'drawing' | 'failed' | 'restarting' = 'ready';
  facts = facts;
  cancelled = 0;
  batch: readonly PictureOrder[] = [];
  private listen: (event: PictureEvent) => void = () => {};

  draw(pictures: readonly PictureOrder[], listen: (event: PictureEvent) => void) {
    this.state = 'drawing';
    this.batch = pictures;
    this.listen = listen;
  }

  cancel() {
    this.cancelled++;
  }

  get prompts() {
    return this.batch.map(({ settings }) => settings.prompt);
  }

  /** Ends the batch. */
  finish(queue: Queue, seconds = 2) {
    const png = new Uint8Array(1);
    for (const { id } of this.batch) this.listen({ kind: 'picture', id, png, truncated: false, seconds });
    this.state = 'ready';
    queue.pump();
  }
}

const wanted = (prompt: string, steps = 1): Wanted => ({
  settings: {
    prompt,
    negative_prompt: '',
    seed: 0,
    steps,
    cfg_scale: 1,
    sampler: 'heun',
    guidance_interval: null,
  },
  scale: 1,
  previews: 0,
});

function start(limit = 6) {
  const engine = new Played();
  const queue = new Queue(engine, limit);
  const heard: string[] = [];
  const ask = (...list: readonly Wanted[]) =>
    queue.add(list, (event: QueueEvent, place) => {
      const name = list[place]!.settings.prompt;
      heard.push(event.kind === 'queued' ? `${name} after ${event.before}` : `${name} ${event.kind}`);
    });
  return { engine, queue, heard, ask };
}

describe('the queue', () => {
  test('first come, first drawn; what fits goes along; places are told', () => {
    const { engine, queue, heard, ask } = start();
    ask(wanted('a'));
    expect([engine.prompts, queue.length, queue.inHand]).toEqual([['a'], 0, 1]);
    ask(wanted('b'), wanted('c', 9), wanted('d'));
    expect(heard).toEqual(['b after 1', 'c after 2', 'd after 3']);
    engine.finish(queue);
    expect(engine.prompts).toEqual(['b', 'd']); // c has other steps
    expect(heard.slice(3)).toEqual(['a picture', 'c after 2']);
    ask(wanted('e'));
    engine.finish(queue);
    expect(engine.prompts).toEqual(['c']); // which came before e
    engine.finish(queue);
    engine.finish(queue);
    expect([queue.made, queue.length, queue.inHand]).toEqual([5, 0, 0]);
  });

  test("a batch takes no more than the engine's size", () => {
    const { engine, queue, ask } = start();
    ask(...['a', 'b', 'c', 'd', 'e'].map((name) => wanted(name)));
    expect(engine.prompts).toEqual(['a', 'b', 'c']);
    engine.finish(queue);
    expect(engine.prompts).toEqual(['d', 'e']);
  });

  test('room up to its limit, and a guess of when there will be more', () => {
    const { engine, queue, ask } = start(3);
    ask(wanted('a'));
    ask(wanted('b', 2), wanted('c', 2), wanted('d', 2));
    expect([queue.hasRoom(1), queue.hasRoom(0), queue.retryAfter(2)]).toEqual([false, true, 2]);
    engine.finish(queue, 7);
    expect([queue.hasRoom(3), queue.hasRoom(4), queue.retryAfter(4)]).toEqual([true, false, 7]);
    engine.finish(queue, 10_000);
    expect(queue.retryAfter(4)).toBe(600);
  });

  test('cancelling takes out what waits, and ends a batch that nobody waits for', () => {
    const { engine, queue, heard, ask } = start();
    const first = ask(wanted('a'));
    const other = ask(wanted('x', 2));
    const second = ask(wanted('b'), wanted('c'));
    other.cancel();
    expect([queue.length, engine.cancelled]).toEqual([2, 0]);
    expect(heard.slice(-2)).toEqual(['b after 1', 'c after 2']);
    first.cancel();
    expect(engine.cancelled).toBe(1);
    engine.finish(queue); // it says so late: nobody hears of it
    expect(heard).not.toContain('a picture');
    expect([engine.prompts, queue.made]).toEqual([['b', 'c'], 1]);
    second.cancel();
    second.cancel();
    expect(engine.cancelled).toBe(2);
  });

  test('a batch that someone still waits for goes on', () => {
    const { engine, queue, heard, ask } = start();
    ask(wanted('z', 5));
    const mine = ask(wanted('a'));
    ask(wanted('b'));
    engine.finish(queue);
    expect(engine.prompts).toEqual(['a', 'b']);
    mine.cancel();
    expect(engine.cancelled).toBe(0);
    engine.finish(queue);
    expect(heard.slice(-1)).toEqual(['b picture']);
  });

  test('while the engine starts again pictures wait; when it has failed they do, too', () => {
    const { engine, queue, heard, ask } = start();
    engine.state = 'restarting';
    ask(wanted('a'));
    expect(queue.length).toBe(1);
    engine.state = 'failed';
    queue.pump();
    expect([queue.length, queue.failed, heard.at(-1)]).toEqual([0, 1, 'a failed']);
  });

  test('closing fails what waits and lets the batch in hand end', async () => {
    const { engine, queue, heard, ask } = start();
    ask(wanted('a'));
    ask(wanted('b'));
    let closed = false;
    const closing = queue.close('stopping').then(() => {
      closed = true;
    });
    await Bun.sleep(0);
    expect([closed, heard.at(-1), queue.closedFor]).toEqual([false, 'b failed', 'stopping']);
    engine.finish(queue);
    await closing;
    expect(heard.at(-1)).toBe('a picture');
    await start().queue.close('at once');
  });
});

describe('the shelf', () => {
  test('gives back what it was given, under names that differ, for an hour', () => {
    let now = 0;
    const shelf = new Shelf(1000, () => now);
    const [a, b] = [shelf.put(Uint8Array.of(1)), shelf.put(Uint8Array.of(2))];
    expect(a).toMatch(/^[0-9a-f]{32}$/);
    expect(a).not.toBe(b);
    expect(shelf.get(a)).toEqual(Uint8Array.of(1));
    expect(shelf.get('0'.repeat(32))).toBeUndefined();
    now = 3_599_999;
    expect(shelf.get(b)).toEqual(Uint8Array.of(2));
    now = 3_600_000;
    expect(shelf.get(b)).toBeUndefined();
  });

  test('the oldest make room, and the newest stays whatever its size', () => {
    const shelf = new Shelf(100);
    const names = [60, 30, 30, 500].map((bytes) => shelf.put(new Uint8Array(bytes)));
    expect(names.map((name) => shelf.get(name)?.length)).toEqual([undefined, undefined, undefined, 500]);
    const two = [40, 50].map((bytes) => shelf.put(new Uint8Array(bytes)));
    expect(two.map((name) => shelf.get(name)?.length)).toEqual([40, 50]);
  });
});
