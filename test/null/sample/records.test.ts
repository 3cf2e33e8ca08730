// Records of a stream: their keys for ever, numbers that are not finite, bytes that survive MessagePack.

import { expect, test } from 'bun:test';
import { unpackMultiple } from 'msgpackr';
import { type ImageRecord, jsonRecord, packRecord } from '../../../src/sample/records.ts';

const record: ImageRecord & { more: string } = {
  more: 'not a key of the format',
  truncated: false,
  index: 4,
  prompt: 'a "red" apple\n',
  negative_prompt: '',
  seed: 2 ** 53 - 1,
  file: 'out/000004.png',
  width: 32,
  height: 32,
  steps: 30,
  cfg_scale: Number.POSITIVE_INFINITY,
  sampler: 'heun',
  model: 'emoji',
  seconds: 0.25,
};

test('a line of JSON has exactly the keys of the format, in their order', () => {
  expect(jsonRecord(record)).toBe(
    '{"index":4,"prompt":"a \\"red\\" apple\\n","negative_prompt":"","seed":9007199254740991,' +
      '"file":"out/000004.png","width":32,"height":32,"steps":30,"cfg_scale":"Infinity","sampler":"heun",' +
      '"model":"emoji","seconds":0.25,"truncated":false}\n',
  );
  expect(jsonRecord({ ...record, guidance_interval: [0.5, 2] })).toEndWith(
    '"truncated":false,"guidance_interval":[0.5,2]}\n',
  );
  expect(jsonRecord({ index: 5, error: 'the line is blank' })).toBe(
    '{"index":5,"error":"the line is blank"}\n',
  );
});

test('MessagePack carries the same keys, and bytes as they are', () => {
  const png = Uint8Array.from({ length: 1000 }, (_, i) => i % 251);
  const latent = new Float32Array([1.5, -2, Number.NaN, 1e-30]);
  const stream = Buffer.concat([
    packRecord({ ...record, file: null }, png.subarray(3), { latent: latent.subarray(1) }),
    packRecord({ index: 5, error: 'bad' }),
  ]);
  expect([0x8e, 0x8f, 0xde]).toContain(stream[0]!); // a plain map, which every MessagePack reader knows
  const [image, error] = unpackMultiple(stream) as Record<string, unknown>[];
  const { latent: packed, png: file, ...keys } = image!;
  expect(keys).toEqual(JSON.parse(jsonRecord({ ...record, file: null })));
  expect(Buffer.from(file as Uint8Array).equals(png.subarray(3))).toBe(true);
  expect(Buffer.from(packed as Uint8Array).equals(new Uint8Array(latent.buffer, 4))).toBe(true);
  expect(error).toEqual({ index: 5, error: 'bad' });
});
