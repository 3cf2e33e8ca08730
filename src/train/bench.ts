// Speed of a whole training step or of a forward pass, on the CPU beside a yardstick measured in the same
// run: plain 1024^3 products of OpenBLAS, one a thread. Other work on the machine touches both alike.
import type { Backend, Region } from '../backend/backend.ts';
import { tokenCount } from '../model/config.ts';
import { operandBytes } from '../plan/op.ts';
import { SCALAR, SCALAR_SIZE, STATE_SIZE } from '../plan/ops/optimizer.ts';
import { words } from '../plan/ops/random.ts';
import type { Plan, Port } from '../plan/plan.ts';
import { encodeNumbers, Runner } from '../plan/runner.ts';
import { product } from '../plan/tensor.ts';
import type { Recipe, Stage } from '../recipe/schema.ts';
import { forwardPlan } from '../sample/forward.ts';
import type { Network } from '../sample/network.ts';
import { allocFlat, computeWeights, freeWeights, regionsOf } from '../sample/weights.ts';
import { initialiseWeights } from './initialise.ts';
import { keptPatches, microStepPlan, updatePlan } from './step.ts';
import { stageWork } from './work.ts';

export interface Workload {
  readonly network: Network;
  readonly recipe: Recipe;
  /** Mask ratio, batch size and the like. */
  readonly stage: Stage;
}

export interface BenchOptions extends Workload {
  readonly backend: Backend;
  readonly threads: number;
  /** Measured repeats after one to warm up. */
  readonly repeats: number;
  /** Also time every op, in as many rounds again. */
  readonly ops: boolean;
  /** Seconds that the reference takes where the yardstick runs at REFERENCE_GFLOPS; null: not known. */
  readonly referenceSeconds: number | null;
}

/** Rate of the yardstick on the two cores where the reference (PyTorch 1.13, OpenBLAS) was timed. */
const REFERENCE_GFLOPS = 379;

/** Time of all ops of one name in a pass. */
export interface OpTime {
  readonly op: string;
  readonly calls: number;
  readonly ms: number;
  /** Share of the sum over all ops. */
  readonly share: number;
  readonly gflops: number;
  /** Bytes of all operands, each moved once, by time. */
  readonly gbytes_per_s: number;
}

/** Keys are those of `bench --json`. */
export interface BenchResult {
  readonly images_per_s: number;
  /** Median over the repeats. */
  readonly ms_per_step: number;
  readonly ms_per_step_best: number;
  readonly gflop_per_image: number;
  readonly tflops: number;
  /** Share of what the device is sold for; on the CPU, of sgemm_gflops; null where neither is known. */
  readonly mfu: number | null;
  readonly device: string;
  readonly threads: number;
  readonly batch: number;
  /** The yardstick; null on a GPU. */
  readonly sgemm_gflops: number | null;
  /** Bytes of all regions as planned, and the most that the device gave so far (null on the CPU). */
  readonly bytes_planned: number;
  readonly bytes_peak: number | null;
  /** Times the speed of the reference, scaled by the yardstick; null for other configurations. */
  readonly vs_reference: number | null;
  /** The slowest first; empty where they were not asked for. */
  readonly ops: readonly OpTime[];
}

/** Forward, loss, backward, clip and AdamW, on made-up images and captions. */
export function benchTrain(options: BenchOptions): BenchResult {
  const { backend, network, recipe, stage } = options;
  const { step, update: hyper } = stageWork(recipe, stage);
  const { parameters } = network;
  const flat = (extent: 'all' | 'trainable') => allocFlat(backend, parameters, extent);
  const { real } = backend.elemBytes;
  const master = flat('all');
  initialiseWeights(backend, master, parameters, recipe.train.seed);
  const weights = computeWeights(backend, parameters, master);
  const regions: Record<string, Region> = {
    ...{ grad: flat('trainable'), m: flat('trainable'), v: flat('trainable') },
    ...{ state: backend.alloc(STATE_SIZE * real), scalar: backend.alloc(SCALAR_SIZE * real) },
    ...(hyper.ema ? { ema: flat('all') } : {}),
  };
  const scalars = new Float64Array(SCALAR_SIZE);
  scalars[SCALAR.lr] = recipe.optimizer.lr;
  scalars[SCALAR.emaRate] = recipe.optimizer.ema;
  backend.write(regions.scalar!, 0, encodeNumbers(backend, 'real', scalars));

  const bound = { ...regions, ...regionsOf(weights) };
  const micro = new Runner(backend, microStepPlan(network, step, backend.elemBytes), bound);
  const update = new Runner(backend, updatePlan(parameters, hyper, backend.elemBytes), bound);
  const feed = fillInputs(micro, options, step.batch);
  const passes: Pass[] = [...Array<Pass>(step.passes).fill({ runner: micro, feed }), { runner: update }];
  const result = measure(options, passes, step.batch * step.passes);
  for (const owned of [micro, update, ...Object.values(regions)]) owned.free();
  freeWeights(weights);
  return result;
}

/** The network on noised images and captions, as a sampler runs it (no rounding across images). */
export function benchForward(options: BenchOptions): BenchResult {
  const { backend, network, recipe, stage } = options;
  const { step } = stageWork(recipe, stage);
  const master = allocFlat(backend, network.parameters, 'all');
  initialiseWeights(backend, master, network.parameters, recipe.train.seed);
  const weights = computeWeights(backend, network.parameters, master);
  const pass = {
    batch: step.batch * step.passes,
    kept: keptPatches(network, step.maskRatio),
    captionLength: recipe.text.length,
    sigmaData: step.sigmaData,
  };
  const forward = new Runner(backend, forwardPlan(network, pass, backend.elemBytes), regionsOf(weights));
  const feed = fillInputs(forward, options, pass.batch);
  const result = measure(options, [{ runner: forward, feed }], pass.batch);
  forward.free();
  freeWeights(weights);
  return result;
}

/** Numbers between -2 and 2 that look random and are the same every time. */
const wave = (count: number) => Float32Array.from({ length: count }, (_, i) => 2 * Math.sin(i * 12.9898));

/** One plan of a step, and what brings its inputs to the device anew. */
interface Pass {
  readonly runner: Runner;
  readonly feed?: () => void;
}

/** Makes numbers of the right kind for each input of a plan, known by its name; returns what sets them. */
export function fillInputs(runner: Runner, { network, recipe }: Workload, batch: number): () => void {
  const tokens = tokenCount(network.dit.config);
  const made: Record<string, (port: Port) => ArrayLike<number>> = {
    words: ({ shape }) =>
      Int32Array.from({ length: product(shape) }, (_, i) => (i * 7919) % (network.words?.buckets ?? 1)),
    ids: ({ shape: [N = 1, K = 1] }) =>
      Int32Array.from({ length: N * K }, (_, i) => Math.floor(((i % K) * tokens) / K)),
    places: () => Int32Array.from({ length: 2 * batch }, (_, i) => (i % 2 ? 0 : i / 2)),
    seed: () => words(recipe.train.seed),
    sigma: ({ shape }) => new Float32Array(product(shape)).fill(1),
  };
  const inputs = [...runner.plan.inputs].map(([name, port]) => {
    const values = made[name]?.(port) ?? wave(product(port.shape));
    return [name, encodeNumbers(runner.backend, port.elem, values)] as const;
  });
  return () => {
    for (const [name, values] of inputs) runner.set(name, values);
  };
}

/** Runs passes one after the other, inputs included. */
function measure(options: BenchOptions, passes: readonly Pass[], images: number): BenchResult {
  const runners = passes.map(({ runner }) => runner);
  return judge(options, {
    images,
    flops: runners.reduce((sum, { plan }) => sum + plan.flops, 0),
    regions: runners.flatMap((runner) => Object.values(runner.regions)),
    run() {
      for (const { runner, feed } of passes) {
        feed?.();
        runner.run();
      }
    },
    ops: () => timeOps(options.backend, runners, options.repeats),
  });
}

/** What is run and measured as one. */
export interface Measured {
  readonly images: number;
  readonly flops: number;
  readonly regions: readonly Region[];
  run(): void;
  ops(): readonly OpTime[];
}

/** Rounds of yardstick and work in turn. The median counts for both, so that both meet the same machine. */
export function judge(options: BenchOptions, work: Measured): BenchResult {
  const { backend, threads, repeats, referenceSeconds } = options;
  // A GPU is measured against what it is sold for.
  const yardstick = backend.memory ? null : new Yardstick(backend, threads);
  const seconds: number[] = [];
  const warmUp = backend.memory ? 3 : 1; // eagerly, recorded, and once more as a graph
  for (let round = 0; round < warmUp + repeats; round++) {
    yardstick?.run();
    const begin = performance.now();
    work.run();
    backend.synchronize();
    if (round >= warmUp) seconds.push((performance.now() - begin) / 1000);
    yardstick?.run();
  }
  const ops = options.ops ? work.ops() : [];
  const gflops = yardstick?.gflops ?? null;
  yardstick?.free();
  const median = medianOf(seconds);
  const gflop = work.flops / 1e9;
  const scaled = referenceSeconds && gflops && (referenceSeconds * REFERENCE_GFLOPS) / gflops;
  const peak = gflops ?? (backend.peakTflops ? 1000 * backend.peakTflops : null);
  return {
    images_per_s: work.images / median,
    ms_per_step: median * 1000,
    ms_per_step_best: Math.min(...seconds) * 1000,
    gflop_per_image: gflop / work.images,
    tflops: gflop / median / 1000,
    mfu: peak && gflop / median / peak,
    device: backend.name,
    threads,
    batch: work.images,
    sgemm_gflops: gflops,
    bytes_planned: [...new Set(work.regions)].reduce((sum, { bytes }) => sum + bytes, 0),
    bytes_peak: backend.memory?.().peak ?? null,
    vs_reference: scaled && scaled / median,
    ops,
  };
}

export function medianOf(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return (sorted[(sorted.length - 1) >> 1]! + sorted[sorted.length >> 1]!) / 2;
}

const SIDE = 1024;

/** Two (as many as there are threads) products of 1024 x 1024 matrices, each on one thread. */
class Yardstick {
  private readonly times: number[] = [];
  private readonly region: Region;
  private readonly loaded;

  constructor(
    backend: Backend,
    private readonly threads: number,
  ) {
    const bytes = threads * SIDE * SIDE * backend.elemBytes.act;
    const pointers = [0, 1, 2].map((i) => ({ space: 'square', offset: i * bytes, elem: 'act' as const }));
    this.region = backend.alloc(3 * bytes);
    backend.write(this.region, 0, encodeNumbers(backend, 'act', wave(2 * threads * SIDE * SIDE)));
    const launch = {
      ...{ kernel: 'blas_square', pointers, ints: [SIDE], reals: [], blocks: threads },
      ...{ scratch: 0, lanes: 0, tensorForm: null },
    };
    const program = { launches: [launch], spaceBytes: { square: 3 * bytes } };
    this.loaded = backend.load(program, { square: this.region });
  }

  run(): void {
    this.times.push(this.loaded.runTimed()[0]!);
  }

  get gflops(): number {
    return (2 * this.threads * SIDE ** 3) / medianOf(this.times);
  }

  free(): void {
    this.region.free();
  }
}

/** Sums by op name of each launch's best time, the slowest name first. */
function timeOps(backend: Backend, passes: readonly Runner[], rounds: number): OpTime[] {
  const best = new Map<Plan, Float64Array>();
  for (let round = 0; round < rounds; round++) {
    for (const { plan, ...pass } of passes.map((p) => ({ plan: p.plan, ns: p.runTimed() }))) {
      best.set(plan, best.get(plan)?.map((ns, i) => Math.min(ns, pass.ns[i]!)) ?? pass.ns);
    }
  }
  const sums = new Map<string, { calls: number; ns: number; flop: number; bytes: number }>();
  for (const { plan } of passes) {
    for (const [i, node] of plan.nodes.entries()) {
      const sum = sums.get(node.op.name) ?? { calls: 0, ns: 0, flop: 0, bytes: 0 };
      sums.set(node.op.name, {
        calls: sum.calls + 1,
        ns: sum.ns + best.get(plan)![i]!,
        flop: sum.flop + node.op.flops(node),
        bytes: sum.bytes + (node.op.bytes ?? operandBytes)(node, backend.elemBytes),
      });
    }
  }
  const total = [...sums.values()].reduce((sum, { ns }) => sum + ns, 0);
  return [...sums]
    .map(([op, { calls, ns, flop, bytes }]) => ({
      ...{ op, calls, ms: ns / 1e6, share: ns / total },
      ...{ gflops: flop / ns, gbytes_per_s: bytes / ns },
    }))
    .sort((a, b) => b.ms - a.ms);
}
