// Bodies of orders: what becomes of every field, and how each slip is refused.
import { describe, expect, test } from 'bun:test';
import { Refusal } from '../../../src/serve/answer.ts';
import { MAX_PARTIAL, readOrder } from '../../../src/serve/order.ts';
import type { EngineFacts } from '../../../src/serve/wire.ts';

const facts: EngineFacts = {
  model: 'emoji',
  device: 'cpu',
  side: 32,
  batch: 8,
  defaults: { steps: 18, cfg_scale: 2, sampler: 'heun' },
};
const limits = { count: 4, steps: 100 };

function order(body: unknown) {
  const text = typeof body === 'string' ? body : JSON.stringify(body);
  return readOrder(new TextEncoder().encode(text), facts, limits);
}

function refusal(body: unknown): Refusal {
  try {
    order(body);
  } catch (error) {
    if (error instanceof Refusal) return error;
    throw error;
  }
  throw new Error(`accepted: ${JSON.stringify(body)}`);
}

describe('orders', () => {
  test("the model's own settings where the body has none", () => {
    const { wanted, ...rest } = order({ prompt: 'a fox', seed: 3 });
    expect(rest).toEqual({ size: '32x32', format: 'b64_json', stream: false });
    const settings = {
      prompt: 'a fox',
      negative_prompt: '',
      seed: 3,
      steps: 18,
      cfg_scale: 2,
      sampler: 'heun',
      guidance_interval: null,
    };
    expect(wanted).toEqual([{ settings: { ...settings, sampler: 'heun' }, scale: 1, previews: 0 }]);
  });

  test('all of them, n with seeds that follow each other', () => {
    const { wanted, ...rest } = order({
      prompt: 'a fox',
      negative_prompt: 'blue',
      n: 2,
      size: '256x256',
      seed: Number.MAX_SAFE_INTEGER,
      steps: 5,
      cfg_scale: 1.5,
      sampler: 'euler',
      guidance_interval: [0.1, 10],
      stream: true,
      partial_images: 3,
      response_format: 'b64_json',
      model: 'emoji',
      user: 'me',
      quality: 'auto',
      output_format: 'png',
      background: null,
    });
    expect(rest).toEqual({ size: '256x256', format: 'b64_json', stream: true });
    expect(wanted.map(({ settings }) => settings.seed)).toEqual([Number.MAX_SAFE_INTEGER, 0]);
    expect(wanted[0]).toMatchObject({
      scale: 8,
      previews: 3,
      settings: {
        negative_prompt: 'blue',
        steps: 5,
        cfg_scale: 1.5,
        sampler: 'euler',
        guidance_interval: [0.1, 10],
      },
    });
  });

  test('without a seed one is drawn, another each time', () => {
    const seeds = Array.from({ length: 8 }, () => order({ prompt: 'a' }).wanted[0]!.settings.seed);
    expect(new Set(seeds).size).toBe(8);
    expect(seeds.every(Number.isSafeInteger)).toBe(true);
  });
});

describe('refusals', () => {
  test.each([
    ['', 'invalid_json', null, 'not JSON'],
    ['{"prompt":', 'invalid_json', null, 'not JSON'],
    ['[]', 'invalid_json', null, 'must be a JSON object'],
    ['null', 'invalid_json', null, 'must be a JSON object'],
    ['"a fox"', 'invalid_json', null, 'must be a JSON object'],
    [{}, 'invalid_value', 'prompt', 'is missing'],
    [{ prompt: null }, 'invalid_value', 'prompt', 'is missing'],
    [{ prompt: ' ' }, 'invalid_value', 'prompt', 'is empty'],
    [{ prompt: 7 }, 'invalid_value', 'prompt', 'must be a text, got 7'],
    [{ prompt: ['a'] }, 'invalid_value', 'prompt', 'must be a text'],
    [{ prompt: 'a', n: 0 }, 'invalid_value', 'n', 'from 1 to 4, got 0'],
    [{ prompt: 'a', n: 5 }, 'invalid_value', 'n', 'from 1 to 4'],
    [{ prompt: 'a', n: '2' }, 'invalid_value', 'n', 'must be a whole number'],
    [{ prompt: 'a', steps: 101 }, 'invalid_value', 'steps', 'from 1 to 100'],
    [{ prompt: 'a', steps: 1.5 }, 'invalid_value', 'steps', 'must be a whole number'],
    [{ prompt: 'a', seed: -1 }, 'invalid_value', 'seed', 'must be a whole number'],
    [{ prompt: 'a', seed: 2 ** 53 }, 'invalid_value', 'seed', 'must be a whole number'],
    [{ prompt: 'a', cfg_scale: '2' }, 'invalid_value', 'cfg_scale', 'must be a number'],
    [{ prompt: 'a', sampler: 'ddim' }, 'invalid_value', 'sampler', 'one of heun, euler, dpmpp2m'],
    [{ prompt: 'a', guidance_interval: [5, 1] }, 'invalid_value', 'guidance_interval', 'must be [low, high]'],
    [{ prompt: 'a', size: '100x100' }, 'invalid_value', 'size', 'a multiple of 32x32 up to 2048x2048'],
    [{ prompt: 'a', size: '32x64' }, 'invalid_value', 'size', 'multiple of'],
    [{ prompt: 'a', size: '0x0' }, 'invalid_value', 'size', 'multiple of'],
    [{ prompt: 'a', size: '4096x4096' }, 'invalid_value', 'size', 'multiple of'],
    [{ prompt: 'a', response_format: 'jpeg' }, 'invalid_value', 'response_format', 'b64_json, url'],
    [{ prompt: 'a', stream: 'yes' }, 'invalid_value', 'stream', 'true or false'],
    [{ prompt: 'a', stream: true, response_format: 'url' }, 'invalid_value', 'response_format', 'a stream'],
    [{ prompt: 'a', partial_images: 2 }, 'invalid_value', 'partial_images', 'needs "stream": true'],
    [
      { prompt: 'a', partial_images: MAX_PARTIAL + 1, stream: true },
      'invalid_value',
      'partial_images',
      'to 20',
    ],
    [{ prompt: 'a', quality: 'hd' }, 'invalid_value', 'quality', 'one of auto, standard'],
    [{ prompt: 'a', model: 'dall-e-3' }, 'model_not_found', 'model', 'draws with emoji'],
    [{ prompt: 'a', out: 'x.png' }, 'invalid_value', 'out', 'not a field'],
    [{ prompt: 'a', step: 3 }, 'invalid_value', 'step', 'Did you mean steps?'],
    ['{"prompt": "a", "__proto__": {"n": 2}}', 'invalid_value', '__proto__', 'not a field'],
    ['{"prompt": "a", "constructor": 1}', 'invalid_value', 'constructor', 'not a field'],
  ] as const)('%j', (body, code, param, message) => {
    const { status, body: answered } = refusal(body);
    expect(status).toBe(code === 'model_not_found' ? 404 : 400);
    expect(answered.error).toMatchObject({ type: 'invalid_request_error', code, param });
    expect(answered.error.message).toContain(message);
  });

  test('bytes that are not UTF-8; long names and values come back cut', () => {
    expect(() => readOrder(Uint8Array.of(0x22, 0xff, 0x22), facts, limits)).toThrow('not JSON in UTF-8');
    const { message } = refusal({ prompt: 'a', ['x'.repeat(50_000)]: 1 });
    expect(message.length).toBeLessThan(200);
    expect(refusal({ prompt: 'a', size: 'y'.repeat(50_000) }).message.length).toBeLessThan(250);
  });

  test('a model of more pixels than we enlarge to has its own size alone', () => {
    const large = { ...facts, side: 4096 };
    const read = (size: string) =>
      readOrder(Buffer.from(JSON.stringify({ prompt: 'a', size })), large, limits);
    expect(read('4096x4096').wanted[0]!.scale).toBe(1);
    expect(() => read('8192x8192')).toThrow('must be auto or 4096x4096');
  });
});
