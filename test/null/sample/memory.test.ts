// GPU memory of published weights at full size, planned without a GPU: it fits 8 GB in bf16.
import { describe, expect, test } from 'bun:test';
import { memoryText } from '../../../src/cli/memory.ts';

const values = {
  ...{ preset: 'MicroDiT_XL_2', recipe: undefined, latent: 64, mask: undefined, batch: undefined, set: [] },
  ...({ precision: 'bf16', json: true } as const),
};

interface Way {
  readonly convolutions: string;
  readonly total: number;
  readonly workspaces: Record<string, number>;
  readonly memory: Record<'weights' | 'plans', Record<string, number>> & { readonly peak: number };
}
const sum = (numbers: Record<string, number>) => Object.values(numbers).reduce((a, b) => a + b, 0);

describe('one picture of 512 x 512', () => {
  for (const [what, change] of [
    ['4 latent channels', {}],
    ['16 latent channels', { set: ['model.in_channels=16'] }],
    ['eight at once', { batch: 8 }],
  ] as const) {
    test(what, async () => {
      const found = JSON.parse(await memoryText({ ...values, set: [], ...change }));
      const ways: Way[] = found.ways;
      expect([found.width, found.height]).toEqual([512, 512]);
      expect(ways.map(({ convolutions }) => convolutions)).toEqual(['cudnn', 'im2col']);
      for (const { total, workspaces, memory } of ways) {
        expect(total).toBeLessThan(8e9);
        expect(memory.peak).toBe(sum(memory.weights) + sum(memory.plans));
        expect(total).toBe(memory.peak + sum(workspaces));
        // 1.16, 0.35 and 0.08 thousand million numbers of two bytes.
        expect(memory.weights.transformer! / 2e9).toBeCloseTo(1.165, 2);
        expect(memory.weights.text! / 2e9).toBeCloseTo(0.353, 2);
        expect(memory.weights.autoencoder! / 2e9).toBeCloseTo(0.084, 2);
        for (const bytes of Object.values(memory.plans)) expect(bytes).toBeGreaterThan(1e6);
      }
    });
  }

  test('as a page', async () => {
    const page = await memoryText({ ...values, json: false });
    expect(page).toMatch(/^one picture of 512 x 512 by MicroDiT_XL_2 in bf16/);
    expect(page).toMatch(/^convolutions by cudnn: [34],\d\d\d MB at most$/m);
    expect(page).toMatch(/^ {2}libraries cuBLASLt 34 MB, cuDNN up to 268 MB$/m);
  });
});
