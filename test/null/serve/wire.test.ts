// Frames between server and engine, whole, in pieces and damaged; the engine's loop over a sampler that is
// only played.
import { describe, expect, test } from 'bun:test';
import { EXIT, Failure } from '../../../src/io/failure.ts';
import type { Picture, PictureRequest, Watch } from '../../../src/sample/sampler.ts';
import { isPreview, runEngine } from '../../../src/serve/engine.ts';
import { type FromEngine, frame, readFrames, type ToEngine } from '../../../src/serve/wire.ts';

const order = (id: number, seed = 0, previews = 0): Extract<ToEngine, { kind: 'draw' }> => ({
  kind: 'draw',
  pictures: [
    {
      id,
      scale: 1,
      previews,
      settings: {
        prompt: 'ein Fuchs \u{1f98a}',
        negative_prompt: '',
        seed,
        steps: 4,
        cfg_scale: 1.25,
        sampler: 'heun',
        guidance_interval: [0.1, 5],
      },
    },
  ],
});

async function* pieces(bytes: Uint8Array, size: number) {
  const shared = new Uint8Array(size); // as streams do, one buffer again and again
  for (let i = 0; i < bytes.length; i += size) {
    const part = bytes.subarray(i, i + size);
    shared.set(part);
    yield shared.subarray(0, part.length);
  }
}

async function all(bytes: Uint8Array, size = bytes.length): Promise<ToEngine[]> {
  const found: ToEngine[] = [];
  for await (const message of readFrames<ToEngine>(pieces(bytes, size))) found.push(message);
  return found;
}

describe('frames', () => {
  const messages: ToEngine[] = [order(1, Number.MAX_SAFE_INTEGER), { kind: 'cancel' }, order(2 ** 40)];
  const bytes = Buffer.concat(messages.map(frame));

  test('come out as they went in, however the stream is cut', async () => {
    for (const size of [1, 2, 3, 5, 7, 64, bytes.length]) expect(await all(bytes, size)).toEqual(messages);
  });

  test('pictures keep their bytes', async () => {
    const png = crypto.getRandomValues(new Uint8Array(70_000));
    const message: FromEngine = { kind: 'picture', id: 1, png, truncated: false, seconds: 0.1 };
    for await (const back of readFrames<FromEngine>(pieces(frame(message), 4096))) {
      expect({ ...back, png: null }).toEqual({ ...message, png: null });
      expect(Buffer.compare((back as typeof message).png, png)).toBe(0);
    }
  });

  test('a stream that is cut, a length out of reason and bytes that mean nothing are Failures', async () => {
    await expect(all(bytes.subarray(0, bytes.length - 1))).rejects.toThrow('ends inside a frame');
    await expect(all(Uint8Array.of(255, 255, 255, 255, 0))).rejects.toThrow('a frame of 4294967295 bytes');
    for (const byte of [0xc1, 0xc4, 0xc0, 0x01]) {
      await expect(all(Uint8Array.of(1, 0, 0, 0, byte))).rejects.toThrow('no message');
    }
  });
});

describe('the engine', () => {
  const pixels = { width: 1, height: 1, channels: 3, data: new Uint8Array(3) } as const;
  const maker = { model: { name: 'm', step: 1 }, beside: {}, version: '0' };
  type Sample = (requests: readonly PictureRequest[], watch?: Watch) => Promise<Picture[]>;

  /** What the engine says to these messages. */
  async function said(sample: Sample, ...messages: ToEngine[]): Promise<FromEngine[]> {
    const sent: FromEngine[] = [];
    async function* source() {
      for (const message of messages) {
        yield frame(message);
        await Bun.sleep(5);
      }
    }
    await runEngine(source(), { sampler: { sample }, maker, send: (message) => sent.push(message) });
    return sent;
  }

  const drawn: Sample = async (requests, watch) => {
    for (let step = 1; step <= 4; step++)
      watch?.onStep?.({ step, steps: 4, rough: () => null, estimate: () => pixels });
    return requests.map(() => ({ pixels, truncated: true }));
  };

  test('sends previews, pictures, and that it is idle', async () => {
    const sent = await said(drawn, order(7, 0, 2));
    expect(sent.map(({ kind }) => kind)).toEqual(['preview', 'preview', 'picture', 'idle']);
    expect(sent[0]).toMatchObject({ id: 7, step: 2, steps: 4 });
    expect(sent[2]).toMatchObject({ id: 7, truncated: true });
  });

  test('a picture that is not finite fails alone', async () => {
    const sent = await said(async () => [{ pixels: null, truncated: false }], order(1));
    expect(sent).toEqual([
      { kind: 'failed', id: 1, error: expect.stringContaining('not finite') },
      { kind: 'idle' },
    ]);
    const decoder = async () => {
      throw new Failure({ what: 'decoded picture', why: 'NaN', code: EXIT.nonFinite });
    };
    expect((await said(decoder, order(1))).map(({ kind }) => kind)).toEqual(['failed', 'idle']);
  });

  test('anything else is told, and ends it', async () => {
    const sent: FromEngine[] = [];
    const broken: Sample = async () => {
      throw new Failure({ what: 'GPU', why: 'fell off the bus' });
    };
    async function* source() {
      yield frame(order(3));
      await Bun.sleep(10_000);
    }
    const running = runEngine(source(), {
      sampler: { sample: broken },
      maker,
      send: (one) => sent.push(one),
    });
    await expect(running).rejects.toThrow('fell off the bus');
    expect(sent).toEqual([{ kind: 'failed', id: 3, error: 'GPU: fell off the bus' }]);
  });

  test('a cancelled batch ends without a word, and the next one is drawn', async () => {
    let first = true;
    const slow: Sample = async (requests, watch) => {
      if (first) {
        first = false;
        await new Promise((_, reject) => {
          watch!.signal!.addEventListener('abort', () => reject(watch!.signal!.reason));
        });
      }
      return drawn(requests, watch);
    };
    const sent = await said(slow, order(1), { kind: 'cancel' }, order(2));
    expect(sent.map((message) => ('id' in message ? message.id : message.kind))).toEqual(['idle', 2, 'idle']);
  });

  test('previews are spread evenly before the last step', () => {
    const at = (steps: number, previews: number) =>
      Array.from({ length: steps }, (_, i) => i + 1).filter((step) => isPreview(step, steps, previews));
    expect(at(18, 0)).toEqual([]);
    expect(at(18, 2)).toEqual([6, 12]);
    expect(at(5, 1)).toEqual([3]);
    expect(at(4, 20)).toEqual([1, 2, 3]);
    expect(at(1, 3)).toEqual([]);
  });
});
