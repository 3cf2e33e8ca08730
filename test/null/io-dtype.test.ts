// bfloat16 and float16: every bit pattern there and back, and rounding against a slow definition.

import { expect, test } from 'bun:test';
import { bf16ToFloat32, f16ToFloat32, float32ToBf16, float32ToF16 } from '../../src/io/dtype.ts';

const ALL = new Uint16Array(65536).map((_, i) => i);

test('every bfloat16 comes back with its own bits', () => {
  const values = new Float32Array(65536);
  const back = new Uint16Array(65536);
  bf16ToFloat32(ALL, values);
  float32ToBf16(values, back);
  for (let i = 0; i < 65536; i++) {
    if (Number.isNaN(values[i]!)) expect((back[i]! & 0x7fff) > 0x7f80).toBe(true);
    else if (back[i] !== i) throw new Error(`bits ${i} came back as ${back[i]}`);
  }
  expect(values[0x3f80]).toBe(1);
  expect(values[0xff80]).toBe(-Infinity);
});

test('every float16 comes back with its own bits', () => {
  const values = new Float32Array(65536);
  const back = new Uint16Array(65536);
  f16ToFloat32(ALL, values);
  float32ToF16(values, back);
  for (let i = 0; i < 65536; i++) {
    if (Number.isNaN(values[i]!)) expect((back[i]! & 0x7fff) > 0x7c00).toBe(true);
    else if (back[i] !== i) throw new Error(`bits ${i} came back as ${back[i]}`);
  }
  expect([values[0x3c00], values[0x0001], values[0x7bff]]).toEqual([1, 2 ** -24, 65504]);
});

test('float32 goes to the nearest, ties to even', () => {
  const bf16 = (value: number) => roundOne(float32ToBf16, value);
  const f16 = (value: number) => roundOne(float32ToF16, value);
  expect(bf16(1 + 2 ** -8)).toBe(0x3f80); // half way: down to the even one
  expect(bf16(1 + 3 * 2 ** -8)).toBe(0x3f82); // half way: up to the even one
  expect(bf16(1 + 2 ** -8 + 2 ** -20)).toBe(0x3f81);
  expect(bf16(3.4e38)).toBe(0x7f80); // beyond the largest: infinite
  expect(bf16(-0)).toBe(0x8000);
  expect(f16(1 + 2 ** -11)).toBe(0x3c00);
  expect(f16(1 + 3 * 2 ** -11)).toBe(0x3c02);
  expect(f16(65519)).toBe(0x7bff);
  expect(f16(65520)).toBe(0x7c00);
  expect(f16(2 ** -25)).toBe(0); // half of the smallest: to even, which is zero
  expect(f16(2 ** -25 * 1.0001)).toBe(1);
});

test('a random float32 is never nearer to a neighbour', () => {
  const values = Float32Array.from({ length: 2000 }, (_, i) => Math.sin(i + 1) * 2 ** ((i % 60) - 30));
  const bits = new Uint16Array(values.length);
  float32ToBf16(values, bits);
  const at = (b: number) => {
    const out = new Float32Array(1);
    bf16ToFloat32(Uint16Array.of(b), out);
    return out[0]!;
  };
  for (let i = 0; i < values.length; i++) {
    const error = Math.abs(at(bits[i]!) - values[i]!);
    expect(error).toBeLessThanOrEqual(Math.abs(at(bits[i]! + 1) - values[i]!));
    expect(error).toBeLessThanOrEqual(Math.abs(at(bits[i]! - 1) - values[i]!));
  }
});

function roundOne(round: (values: Float32Array, out: Uint16Array) => void, value: number): number {
  const out = new Uint16Array(1);
  round(Float32Array.of(value), out);
  return out[0]!;
}
