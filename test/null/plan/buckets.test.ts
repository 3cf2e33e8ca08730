// Buckets of gradients: what ranks send while the rest of the backward pass is computed, found in the plan.
import { describe, expect, test } from 'bun:test';
import { bucketsOf } from '../../../src/plan/buckets.ts';
import { reduce } from '../../../src/plan/ops/collective.ts';
import { zero } from '../../../src/plan/ops/fill.ts';
import { freeze } from '../../../src/plan/plan.ts';
import { spanOf, type Tensor } from '../../../src/plan/tensor.ts';
import { Trace } from '../../../src/plan/trace.ts';
import { NAMED } from '../../../src/recipe/named.ts';
import { resolveRecipe } from '../../../src/recipe/resolve.ts';
import { networkOf } from '../../../src/sample/network.ts';
import { machineOf, modelledSeconds } from '../../../src/train/hardware.ts';
import { microStepPlan } from '../../../src/train/step.ts';
import { stageWork } from '../../../src/train/work.ts';

const elemBytes = { act: 2, real: 4, i32: 4 };

/** A trace whose nodes write these elements [begin, end) of the gradient, one after the other. */
function writing(...spans: (readonly [number, number])[]): Trace {
  const trace = new Trace();
  for (const [begin, end] of spans) zero(gradient(trace, begin, end));
  return trace;
}

function gradient(trace: Trace, begin: number, end: number): Tensor {
  return trace.fixed('grad', `${begin}`, [end - begin], begin, { elem: 'real' });
}

const buckets = (trace: Trace, cut: number, least: number) =>
  bucketsOf(trace.nodes, { space: 'grad', cut, least }).map(({ first, count, after }) => [
    first,
    first + count,
    after,
  ]);

describe('buckets', () => {
  test('are complete behind the last node that writes any of them', () => {
    const trace = writing([0, 8], [8, 16], [0, 4]);
    expect(buckets(trace, 16, 1)).toEqual([
      [4, 8, 0],
      [8, 16, 1],
      [0, 4, 2],
    ]);
  });

  test('wait for neighbours until they are large enough, and for none that is not to come', () => {
    expect(buckets(writing([12, 16], [8, 12], [4, 8], [0, 4]), 16, 8)).toEqual([
      [8, 16, 1],
      [0, 8, 3],
    ]);
    expect(buckets(writing([4, 8], [12, 16], [8, 12], [0, 4]), 16, 100)).toEqual([[0, 16, 3]]);
    // Between two that were sent: at once.
    expect(buckets(writing([0, 8], [12, 20], [8, 12], [20, 24]), 32, 8)).toEqual([
      [0, 8, 0],
      [12, 20, 1],
      [8, 12, 2],
      [20, 24, 3],
    ]);
  });

  test('end where the stretch of a rank ends; padding goes along', () => {
    expect(buckets(writing([0, 10], [20, 30]), 16, 1)).toEqual([
      [0, 10, 0],
      [20, 30, 1],
    ]);
    expect(buckets(writing([10, 20]), 16, 1)).toEqual([
      [10, 16, 0],
      [16, 20, 0],
    ]);
    expect(buckets(writing([0, 5], [8, 12]), 16, 12)).toEqual([[0, 12, 1]]);
  });
});

test('a plan that touches what is sent meanwhile is refused', () => {
  const frozen = (begin: number, end: number) => () => {
    const trace = writing([0, 8]);
    reduce(gradient(trace, 0, 8), 1);
    zero(gradient(trace, begin, end));
    return freeze('x', trace, { elemBytes });
  };
  expect(frozen(7, 9)).toThrow('op constant: touches 7 while reduce works on 0');
  expect(frozen(8, 9)().program.launches.map(({ beside }) => beside)).toEqual([undefined, true, undefined]);
  const trace = new Trace();
  const x = trace.fresh({ shape: [8], elem: 'real' }, 'x');
  zero(x);
  reduce(x, 0);
  expect(() => freeze('x', trace, { elemBytes })).toThrow('op reduce: works beside others on x');
});

describe('the last pass of several ranks', () => {
  const { recipe } = resolveRecipe({ file: { name: 'tiny.toml', text: NAMED.tiny! } });
  const network = networkOf(recipe);
  const { step } = stageWork(recipe, recipe.stage[0]!, 2);
  const [plain, last] = [false, true].map((last) => microStepPlan(network, { ...step, last }, elemBytes));
  const sent = last!.nodes.filter(({ op }) => op.beside);

  test('is the other passes and its sums, in the same memory', () => {
    expect(last!.nodes.filter(({ op }) => !op.beside).map(({ op }) => op)).toEqual(
      plain!.nodes.map(({ op }) => op),
    );
    expect(last!.arena.map(({ offset }) => offset)).toEqual(plain!.arena.map(({ offset }) => offset));
    expect(last!.inputs).toEqual(plain!.inputs);
    const alone = microStepPlan(network, { ...step, ranks: 1, last: true }, elemBytes);
    expect(alone.nodes.some(({ op }) => op.beside)).toBe(false);
  });

  test('sends every trained element once, to its owner, and most of them early', () => {
    const owners = new Int8Array(network.parameters.trainableEnd).fill(-1);
    for (const { outputs, attrs } of sent) {
      const [begin, end] = spanOf(outputs[0]!);
      expect(owners.subarray(begin, end).every((owner) => owner === -1)).toBe(true);
      owners.fill(attrs.root!, begin, end);
    }
    const half = Math.ceil(owners.length / 2 / 64) * 64;
    for (const { base, count } of network.parameters.list.filter(({ tags }) => !tags.frozen)) {
      for (let i = base; i < base + count; i++) if (owners[i] !== (i < half ? 0 : 1)) throw new Error(`${i}`);
    }
    expect(sent.length).toBeWithin(16, 48);
    const nodes = last!.nodes;
    const backward = nodes.findIndex(({ outputs }) => outputs.some((t) => t?.storage.space === 'grad'));
    const middle = (backward + nodes.length) / 2;
    const early = sent.filter((node) => nodes.indexOf(node) < middle);
    const elements = (of: typeof sent) => of.reduce((sum, { outputs }) => sum + outputs[0]!.storage.count, 0);
    expect(elements(early) / elements(sent)).toBeGreaterThan(0.4);
  });

  test('is modelled with what is not hidden alone', () => {
    const { gpu } = machineOf('h100x2');
    const seconds = (link: number, plan = last!) => modelledSeconds(plan.nodes, { ...gpu, link }, elemBytes);
    const alone = seconds(gpu.link, plain!);
    expect(seconds(1e15)).toBeCloseTo(alone, 12);
    const bytes = 4 * sent.reduce((sum, { outputs }) => sum + outputs[0]!.storage.count, 0);
    // Of a link that takes as long as the pass, a part is seen; of a slow one nearly all.
    expect(seconds(bytes / alone)).toBeWithin(alone, 2 * alone);
    expect(seconds(bytes / (100 * alone)) / alone).toBeWithin(100, 101);
  });
});
