// The two ways to answer an order: all pictures at once as JSON, or server-sent events as they come. The
// events are OpenAI's (image_generation.partial_image, .completed), one more says how many are before.
import { answer, json, Refusal } from './answer.ts';
import type { ImageOrder } from './order.ts';
import type { Handle, Queue, QueueEvent } from './queue.ts';
import type { Drawn } from './wire.ts';

interface Parts {
  readonly queue: Queue;
  /** Aborts when the client goes. */
  readonly signal: AbortSignal;
  readonly detail: (line: string) => void;
}

/** Answers when all pictures are there. One that cannot be made fails them all. */
export async function drawOnce(
  order: ImageOrder,
  { queue, signal, detail, keep }: Parts & { readonly keep: (png: Uint8Array) => string },
): Promise<Response> {
  const begin = performance.now();
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const pictures: Drawn[] = [];
  const handle = queue.add(order.wanted, (event, place) => {
    if (event.kind === 'failed') reject(undrawn(event.error));
    if (event.kind !== 'picture') return;
    pictures[place] = event;
    if (pictures.filter(Boolean).length === order.wanted.length) resolve();
  });
  const gone = () => reject(new Refusal(499, 'client_gone', 'the client went away'));
  if (signal.aborted) gone();
  signal.addEventListener('abort', gone, { once: true });
  try {
    await promise;
  } catch (error) {
    handle.cancel();
    detail(`${described(order)}: ${error instanceof Error ? error.message : String(error)}`);
    throw error;
  } finally {
    signal.removeEventListener('abort', gone);
  }
  detail(`${described(order)} in ${since(begin)}`);
  const data = pictures.map((picture, place) => ({
    ...(order.format === 'url' ? { url: keep(picture.png) } : { b64_json: base64(picture.png) }),
    ...about(order, place, picture),
  }));
  return json({ created: seconds(), data, size: order.size, output_format: 'png' });
}

/** Answers at once, with events until all pictures are there or have failed. */
export function drawStream(order: ImageOrder, { queue, signal, detail }: Parts): Response {
  const begin = performance.now();
  let handle: Handle | undefined;
  let left = order.wanted.length;
  let pulse: Timer | undefined;
  const encoder = new TextEncoder();
  const gone = () => {
    clearInterval(pulse);
    handle?.cancel();
    if (left > 0) detail(`${described(order)}: the client went away`);
    left = 0;
  };
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      const say = (text: string) => controller.enqueue(encoder.encode(text));
      const hear = (event: QueueEvent, place: number) => {
        if (left === 0) return;
        say(eventText(eventOf(order, event, place)));
        if (event.kind !== 'picture' && event.kind !== 'failed') return;
        left--;
        if (left > 0) return;
        clearInterval(pulse);
        signal.removeEventListener('abort', gone);
        detail(`${described(order)} in ${since(begin)}`);
        controller.close();
      };
      if (signal.aborted) return gone();
      signal.addEventListener('abort', gone, { once: true });
      pulse = setInterval(() => say(': still here\n\n'), 15_000);
      handle = queue.add(order.wanted, hear);
    },
    cancel: gone,
  });
  return answer(body, 'text/event-stream; charset=utf-8');
}

/** An event of the stream; `type` is its name too. */
function eventOf(order: ImageOrder, event: QueueEvent, place: number) {
  const head = { created_at: seconds(), index: place };
  switch (event.kind) {
    case 'queued':
      return { type: 'image_generation.queued', ...head, before: event.before };
    case 'preview':
      return {
        type: 'image_generation.partial_image',
        ...head,
        b64_json: base64(event.png),
        partial_image_index: partialIndex(order, event.step, event.steps, place),
        step: event.step,
        steps: event.steps,
        output_format: 'png',
      };
    case 'picture':
      return {
        type: 'image_generation.completed',
        ...head,
        b64_json: base64(event.png),
        ...about(order, place, event),
        size: order.size,
        output_format: 'png',
      };
    case 'failed':
      return { type: 'error', index: place, ...undrawn(event.error).body };
  }
}

/** Which of a picture's previews this one is, from 0. */
function partialIndex({ wanted }: ImageOrder, step: number, steps: number, place: number): number {
  const { previews } = wanted[place]!;
  return Math.min(previews, Math.floor((step * (previews + 1)) / steps)) - 1;
}

function eventText(event: { readonly type: string }): string {
  return `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`;
}

/** What a client cannot know of a picture: the seed where it named none, and whether its prompt was cut. */
function about({ wanted }: ImageOrder, place: number, { truncated }: Drawn) {
  return { seed: wanted[place]!.settings.seed, truncated };
}

function undrawn(error: string): Refusal {
  return new Refusal(500, 'not_drawn', error);
}

/** Without the prompt, which is nobody's business. */
function described({ wanted, size }: ImageOrder): string {
  return `${wanted.length} ${wanted.length === 1 ? 'picture' : 'pictures'} of ${size}`;
}

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64');
}

/** Seconds since `begin`, in words. */
function since(begin: number): string {
  return `${((performance.now() - begin) / 1000).toFixed(2)} s`;
}

function seconds(): number {
  return Math.floor(Date.now() / 1000);
}
