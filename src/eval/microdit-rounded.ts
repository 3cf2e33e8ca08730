// Conformance in bfloat16: outputs, intermediate values and gradients with the experts' tokens as float32
// chooses them (one choice that tips changes all that comes after), and, apart from that, how often a free
// choice is the same.
import type { Backend } from '../backend/backend.ts';
import type { Safetensors } from '../io/safetensors.ts';
import { tokenCount } from '../model/config.ts';
import type { Runner } from '../plan/runner.ts';
import { freeWeights } from '../sample/weights.ts';
import { angle, attempt, Group, type GroupResult, relRms, skipped } from './conformance.ts';
import { callShape, type CallShape, forcedInputs, networkCall } from './microdit-forward.ts';
import { type GoldenSet, openSet, readKept } from './microdit-set.ts';
import { type Batch, eachTensor, maskNames, readBatch, setAll, TrainingRun } from './microdit-training.ts';
import type { TrainingCode } from './training-code.ts';

/** What bfloat16 may be off by. */
export const BFLOAT16_BOUNDS = {
  /** Outputs and intermediate values: relative root mean square. */
  outputs: 0.03,
  /** 1 - cosine of each parameter's gradient. */
  gradients: 0.01,
  /** Share of the experts' tokens that a free choice picks otherwise. */
  routing: 0.1,
};

export interface RoundedOptions {
  readonly backend: Backend;
  /** Computes in float32, and so makes the choices that are recorded. */
  readonly recorder: Backend;
  readonly training: TrainingCode;
}

/** All groups of one set. */
export function* verifyRounded(dir: string, name: string, options: RoundedOptions): Generator<GroupResult> {
  const opened: GoldenSet[] = [];
  yield* attempt(name, () => {
    for (const backend of [options.backend, options.recorder]) {
      const set = openSet(dir, name, backend);
      if (!set) return [skipped(name, 'needs an info file and weights')];
      opened.push(set);
    }
    return [];
  });
  const [set, exact] = opened;
  if (!set || !exact) return;
  const groups = {
    outputs: new Group(`${name} outputs`, BFLOAT16_BOUNDS.outputs),
    activations: new Group(`${name} activations`, BFLOAT16_BOUNDS.outputs),
    routing: new Group(`${name} free routing`, BFLOAT16_BOUNDS.routing),
  };
  yield* attempt(`${name} forward`, () => {
    checkCalls(set, exact, groups);
    return Object.values(groups).map((g) => g.result());
  });
  for (const mask of maskNames(set)) {
    const gradients = new Group(`${name} ${mask} gradients`, BFLOAT16_BOUNDS.gradients);
    yield* attempt(`${name} ${mask} training`, () => {
      checkGradients(set, exact, mask, options.training, gradients);
      return [gradients.result()];
    });
  }
  for (const { weights } of opened) freeWeights(weights);
}

/** Tokens of each expert by layer: N E lists of K. */
type Choices = ReadonlyMap<string, { readonly K: number; readonly tokens: ArrayLike<number> }>;

const isChoice = (name: string) => name.endsWith('.topk_indices');

function choicesOf(runner: Runner): Choices {
  const ports = [...runner.plan.outputs].filter(([name]) => isChoice(name));
  return new Map(
    ports.map(([name, { shape }]) => [name, { K: shape.at(-1) ?? 1, tokens: runner.get(name) }]),
  );
}

interface Call {
  readonly shape: CallShape;
  readonly inputs: Batch['inputs'];
  readonly denoiser: boolean;
}

/** Runs a call in float32 for its choices, then with them, then freely; hands over both rounded runs. */
function threefold(
  set: GoldenSet,
  exact: GoldenSet,
  call: Call,
  check: (forced: Runner) => void,
): Disagreement {
  const run = (of: GoldenSet, choices: Choices | null) => {
    const mode = { denoiser: call.denoiser, tap: true, forced: choices !== null };
    const runner = networkCall(of, call.shape, mode);
    setAll(runner, call.inputs);
    for (const [name, { tokens }] of choices ?? []) runner.set(name, tokens);
    runner.run();
    return runner;
  };
  const recorded = run(exact, null);
  const choices = choicesOf(recorded);
  recorded.free();
  const forced = run(set, choices);
  check(forced);
  forced.free();
  const free = run(set, null);
  const disagreement = disagreements(choices, choicesOf(free));
  free.free();
  return disagreement;
}

interface Disagreement {
  readonly different: number;
  readonly total: number;
}

/** How many tokens of the experts' lists are not in the other list of the same expert and image. */
function disagreements(wanted: Choices, got: Choices): Disagreement {
  let [different, total] = [0, 0];
  for (const [name, { K, tokens }] of wanted) {
    const others = Array.from(got.get(name)?.tokens ?? []);
    for (let at = 0; at < tokens.length; at += K) {
      const list = new Set(others.slice(at, at + K));
      for (let i = at; i < at + K; i++) if (!list.has(tokens[i]!)) different += 1;
    }
    total += tokens.length;
  }
  return { different, total };
}

function checkCalls(
  set: GoldenSet,
  exact: GoldenSet,
  groups: { outputs: Group; activations: Group; routing: Group },
): void {
  using file = set.open('forward');
  if (!file) return;
  using activations = set.open('activations');
  const whole = callShape(file, 'x', null);
  const kept = readKept(file, whole.N, tokenCount(set.network.dit.config));
  const sums = { different: 0, total: 0 };
  for (const name of file.tensors.keys()) {
    const found = /^(out|D_x)_(nomask|mask\d+)$/.exec(name);
    if (!found) continue;
    const masked = found[2] !== 'nomask';
    if (masked && !kept) continue;
    const denoiser = found[1] === 'D_x';
    const call = {
      shape: masked && kept ? { ...whole, K: kept.K } : whole,
      inputs: {
        ...Object.fromEntries(
          ['x', 'y', denoiser ? 'sigma' : 't'].map((key) => [key, file.readFloat32(key)]),
        ),
        ...(masked && kept ? { ids: kept.ids } : {}),
      },
      denoiser,
    };
    const { different, total } = threefold(set, exact, call, (runner) => {
      groups.outputs.add(relRms(runner.get('out'), file.readFloat64(name)), name);
      if (activations && masked && !denoiser) checkActivations(activations, runner, groups.activations);
    });
    sums.different += different;
    sums.total += total;
  }
  if (sums.total > 0) {
    groups.routing.add(sums.different / sums.total, `${sums.different} of ${sums.total} choices differ`);
  }
}

function checkActivations(file: Safetensors, runner: Runner, group: Group): void {
  for (const name of file.tensors.keys()) {
    if (isChoice(name)) continue;
    if (!runner.plan.outputs.has(name)) group.add(Number.NaN, `${name}: the model has no such value`);
    else group.add(relRms(runner.get(name), file.readFloat64(name)), name);
  }
}

function checkGradients(
  set: GoldenSet,
  exact: GoldenSet,
  mask: string,
  training: TrainingCode,
  group: Group,
): void {
  using file = set.open('train');
  if (!file) return;
  const [batch, exactBatch] = [readBatch(set, file, mask), readBatch(exact, file, mask)];
  if (!batch || !exactBatch) return;
  const recorder = new TrainingRun(exactBatch, training, (trace) => ({
    tap: (name, value) => {
      if (isChoice(name)) trace.output(name, value);
    },
  }));
  recorder.accumulate();
  const choices = choicesOf(recorder.micro);
  recorder.free();
  const run = new TrainingRun(batch, training, (trace) => ({ forced: forcedInputs(trace) }));
  try {
    for (const [name, { tokens }] of choices) run.micro.set(name, tokens);
    run.accumulate();
    const whole = run.gradientNorm();
    for (const suffix of set.suffixes.filter((s) => s.startsWith(`grads_${mask}`))) {
      eachTensor(set, suffix, run, 'grad', (ours, theirs, name) => {
        // A gradient that is nothing but rounding has no direction.
        const size = Math.hypot(...theirs);
        group.add(size < NOTHING * whole ? 0 : angle(ours, theirs), name);
      });
    }
  } finally {
    run.free();
  }
}

/** Below this part of the whole gradient's norm a parameter's gradient counts as zero. */
const NOTHING = 1e-9;
