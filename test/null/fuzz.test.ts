// The readers of files that others wrote, fuzzed with the same inputs each time; `make fuzz` goes on with
// others.

import { describe, expect, test } from 'bun:test';
import { Failure } from '../../src/io/failure.ts';
import { fuzz, type FuzzTarget, inputOf, randomOf } from '../fuzz/fuzz.ts';
import { TARGETS } from '../fuzz/targets.ts';

const INPUTS = 1000;
/** What none of the inputs, of some ten kilobytes each, can need. */
const MEMORY_BYTES = 512 * 2 ** 20;

describe('no crash, no other error than a Failure, no memory beyond the input', () => {
  for (const target of TARGETS) {
    test(target.name, async () => {
      const before = process.resourceUsage().maxRSS * 1024;
      const { findings, inputs } = await fuzz(target, 1, (n) => n >= INPUTS);
      expect(findings).toEqual([]);
      expect(inputs).toBe(INPUTS);
      expect(process.resourceUsage().maxRSS * 1024 - before).toBeLessThan(MEMORY_BYTES);
    });

    test(`${target.name}: an input that was not changed is read`, async () => {
      // Some targets draw what an input is read as, so that most are refused.
      let read = 0;
      for (let n = 0; n < 20 * target.variants && read === 0; n++) {
        try {
          await target.call(target.make(n % target.variants), randomOf(n));
          read += 1;
        } catch (error) {
          expect(error).toBeInstanceOf(Failure);
        }
      }
      expect(read).toBe(1);
    });
  }
});

test('a reader that fails otherwise is found, and the input can be had again', async () => {
  const target: FuzzTarget = {
    name: 'careless',
    variants: 1,
    make: () => new TextEncoder().encode('{"a": [1, 2, 3], "b": "some text"}'),
    call: (bytes) => {
      if (bytes.length > 60) throw new Failure({ what: 'x', why: 'too long' });
      JSON.parse(new TextDecoder().decode(bytes));
    },
  };
  const { findings, read } = await fuzz(target, 7, (n) => n >= 500);
  expect(findings.length).toBeGreaterThan(10);
  expect(read).toBeGreaterThan(0);
  expect(findings[0]!.why).toMatch(/SyntaxError/);
  const again = await fuzz(target, 7, (n) => n > findings[0]!.n, { first: findings[0]!.n });
  expect(again.findings).toHaveLength(1);
  expect(() => target.call(inputOf(target, 7, findings[0]!.n), () => 0)).toThrow(SyntaxError);
  // Others of another seed.
  const other = await fuzz(target, 8, (n) => n >= 500);
  expect(other.findings.map(({ n }) => n)).not.toEqual(findings.map(({ n }) => n));
});
