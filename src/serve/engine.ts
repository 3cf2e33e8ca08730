// The engine's own process: reads orders from a pipe, draws them, and sends previews and pictures back.
import { EXIT, Failure } from '../io/failure.ts';
import { encodePng } from '../io/png.ts';
import { type Maker, pictureFile } from '../sample/picture-file.ts';
import type { Picture, Sampler, StepView } from '../sample/sampler.ts';
import { type FromEngine, type PictureOrder, readFrames, type ToEngine } from './wire.ts';

export interface EngineParts {
  readonly sampler: Pick<Sampler, 'sample'>;
  readonly maker: Omit<Maker, 'scale'>;
  readonly send: (message: FromEngine) => void;
}

/**
 * Draws what comes until the stream ends, which is how the server ends it. A batch that is under way then is
 * dropped. Whatever goes wrong with more than one picture's numbers is told and thrown: a new process is the
 * cure.
 */
export async function runEngine(source: AsyncIterable<Uint8Array>, parts: EngineParts): Promise<void> {
  let stop = new AbortController();
  const { promise: broken, reject: breakOff } = Promise.withResolvers<never>();
  const listening = (async () => {
    for await (const message of readFrames<ToEngine>(source)) {
      stop.abort(CANCELLED);
      if (message.kind === 'cancel') continue;
      stop = new AbortController();
      drawBatch(message.pictures, parts, stop.signal).catch(breakOff);
    }
    stop.abort(CANCELLED);
  })();
  await Promise.race([listening, broken]);
}

/** Why a batch ends early; no fault. */
const CANCELLED = Symbol('cancelled');

async function drawBatch(
  orders: readonly PictureOrder[],
  { sampler, maker, send }: EngineParts,
  signal: AbortSignal,
): Promise<void> {
  const begin = performance.now();
  const onStep = (view: StepView) => {
    for (const [n, order] of orders.entries()) {
      if (!signal.aborted && isPreview(view.step, view.steps, order.previews))
        sendPreview(order, n, view, send);
    }
  };
  try {
    const pictures = await sampler.sample(
      orders.map((order) => order.settings),
      { onStep, signal },
    );
    const seconds = (performance.now() - begin) / 1000 / orders.length;
    for (const [n, order] of orders.entries()) send(finished(order, pictures[n]!, maker, seconds));
  } catch (error) {
    if (error !== CANCELLED) {
      const why = error instanceof Error ? error.message : String(error);
      for (const { id } of orders) send({ kind: 'failed', id, error: why });
      if (!(error instanceof Failure && error.code === EXIT.nonFinite)) throw error;
    }
  }
  send({ kind: 'idle' });
}

/** Spreads `previews` estimates evenly over the steps before the last one. */
export function isPreview(step: number, steps: number, previews: number): boolean {
  const before = (s: number) => Math.floor((s * (previews + 1)) / steps);
  return step < steps && before(step) > before(step - 1);
}

/** An estimate that is not finite yet, or cannot be decoded, is passed over: the end decides. */
function sendPreview(order: PictureOrder, n: number, view: StepView, send: EngineParts['send']): void {
  const { step, steps } = view;
  try {
    const pixels = view.estimate(n);
    if (pixels) send({ kind: 'preview', id: order.id, step, steps, png: encodePng(pixels) });
  } catch (error) {
    if (!(error instanceof Failure && error.code === EXIT.nonFinite)) throw error;
  }
}

function finished(
  { id, settings, scale }: PictureOrder,
  { pixels, truncated }: Picture,
  maker: Omit<Maker, 'scale'>,
  seconds: number,
): FromEngine {
  if (!pixels) {
    const error = 'the picture is not finite (NaN): the model or the settings are out of range';
    return { kind: 'failed', id, error };
  }
  const { png } = pictureFile(settings, { pixels, truncated }, { ...maker, scale });
  return { kind: 'picture', id, png, truncated, seconds };
}
