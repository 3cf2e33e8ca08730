// Random graphs of ops against finite differences in float64, and replay: repeats are equal to the bit
// whatever the arena held before, by one call of the native library each.
import { describe, expect, spyOn, test } from 'bun:test';
import type { Backend, Numbers } from '../../src/backend/backend.ts';
import { words } from '../../src/plan/ops/random.ts';
import { RECOMPUTE, type Recompute } from '../../src/plan/recompute.ts';
import { readNumbers, Runner } from '../../src/plan/runner.ts';
import { product } from '../../src/plan/tensor.ts';
import { resolveRecipe } from '../../src/recipe/resolve.ts';
import { declareNetwork } from '../../src/sample/network.ts';
import { allocFlat } from '../../src/sample/weights.ts';
import { initialiseWeights } from '../../src/train/initialise.ts';
import { microStepPlan } from '../../src/train/step.ts';
import { stageWork } from '../../src/train/work.ts';
import { graphInputs, randomGraph } from '../null/plan/random-graph.ts';
import { bothBackends, checkOp, productLibrary, randomInput, randomValues } from './op-case.ts';

describe('gradients of random graphs', () => {
  for (let seed = 1; seed <= 24; seed++) {
    test(`graph ${seed}`, () => {
      const inputs = Object.fromEntries(
        Object.entries(graphInputs).map(([name, shape], i) => [
          name,
          randomInput([...shape], seed * 10 + i, 0.7),
        ]),
      );
      checkOp({ inputs, build: (t) => randomGraph(t, seed, 2 + (seed % 9)) });
    });
  }
});

describe('replay of a micro-step', () => {
  const { f32 } = bothBackends();
  const values = { model: { preset: 'nano' }, stage: [{ mask_ratio: 0.5, batch_size: 3 }] };
  const { recipe } = resolveRecipe({ given: { origin: 'test', values } });
  const network = declareNetwork(recipe.model, recipe.text);

  function micro(backend: Backend, level: Recompute = 'none'): Runner {
    const { parameters } = network;
    const weight = allocFlat(backend, parameters, 'all');
    const shared = {
      weight,
      master: weight,
      grad: allocFlat(backend, parameters, 'trainable'),
      state: backend.alloc(64),
    };
    initialiseWeights(backend, weight, parameters, 5);
    const { step } = stageWork(recipe, recipe.stage[0]!);
    const plan = microStepPlan(network, { ...step, recompute: level }, backend.elemBytes);
    const runner = new Runner(backend, plan, shared);
    for (const [name, { shape, elem }] of runner.plan.inputs) {
      if (name === 'seed') runner.set(name, words(7));
      else if (elem === 'i32')
        runner.set(
          name,
          Int32Array.from({ length: product(shape) }, (_, i) => i % 9),
        );
      else runner.set(name, randomValues(product(shape), 3));
    }
    return runner;
  }

  /** Gradients, losses and state after a run on an arena full of `byte`. */
  function results(runner: Runner, byte: number): Numbers[] {
    const { arena, grad, state } = runner.regions;
    for (const region of [grad!, state!]) f32.fill(region, 0);
    f32.fill(arena!, byte);
    runner.run();
    return [grad!, state!].map((region) => {
      return readNumbers(f32, region, 0, 'real', region.bytes / 4);
    });
  }

  test('a second run has the same bits, with NaN in the arena before it', () => {
    const runner = micro(f32);
    const first = results(runner, 0);
    const second = results(runner, 0xff);
    expect(first[0]!.some((g) => g !== 0) && first[0]!.every(Number.isFinite)).toBe(true);
    expect(second).toEqual(first);
    runner.free();
  });

  test('gradients of several passes add up', () => {
    const runner = micro(f32);
    const [once] = results(runner, 0xff);
    runner.run();
    const twice = readNumbers(f32, runner.regions.grad!, 0, 'real', once!.length);
    for (const [i, g] of once!.entries()) {
      if (Math.abs(twice[i]! - 2 * g) > 1e-5 * Math.max(1e-3, Math.abs(g))) {
        throw new Error(`gradient ${i} is ${g}, then ${twice[i]}`);
      }
    }
    runner.free();
  });

  test('recomputation takes less memory and changes no bit', () => {
    const runners = RECOMPUTE.map((level) => micro(f32, level));
    const [none, cheap, blocks] = runners.map((runner) => results(runner, 0xff));
    expect(cheap).toEqual(none!);
    expect(blocks).toEqual(none!);
    const arenas = runners.map((runner) => runner.regions.arena!.bytes);
    expect(arenas[1]).toBeLessThan(arenas[0]!);
    expect(arenas[2]).toBeLessThan(arenas[1]!);
    for (const runner of runners) runner.free();
  });

  test('a run is one native call and takes no memory', () => {
    const runner = micro(f32);
    const native = productLibrary();
    const spies = [spyOn(native, 'replay'), spyOn(native, 'alloc'), spyOn(native, 'copy')];
    runner.run();
    runner.run();
    expect(spies.map((spy) => spy.mock.calls.length)).toEqual([2, 0, 0]);
    for (const spy of spies) spy.mockRestore();
    runner.free();
  });
});
