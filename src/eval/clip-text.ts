// Conformance of the CLIP text tower with a folder of golden sets: states, residual stream, pooled vectors.
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Backend } from '../backend/backend.ts';
import { Failure } from '../io/failure.ts';
import { openTensors } from '../io/open-tensors.ts';
import { Safetensors } from '../io/safetensors.ts';
import { ClipEncoder } from '../sample/clip-encoder.ts';
import { readClipTextConfig } from '../text/clip-config.ts';
import { attempt, Group, type GroupResult, maxAbs, relMax, relRms, skipped } from './conformance.ts';

/** What each kind of number may be off by (golden README of this part). */
export const CLIP_BOUNDS = {
  /** States after ln_final, absolute. */
  states: 5e-5,
  /** Pooled vectors, absolute. */
  pooled: 1e-4,
  /** Residual stream: max |a - b| / max |b|. */
  activations: 1e-5,
  /** Where the backend rounds to bfloat16, of all of them: sqrt(mean (a - b)^2 / mean b^2). */
  rounded: 0.03,
};

const CONFIG = '.config.json';

/** Every group of a folder, in order, as it is done: each file of weights with its set's texts. */
export function* verifyClipText(dir: string, backend: Backend): Generator<GroupResult> {
  const files = readdirSync(dir).sort();
  for (const name of files.filter((file) => file.endsWith(CONFIG)).map((f) => f.slice(0, -CONFIG.length))) {
    const weights = files.filter((file) => file.startsWith(`${name}.weights.`));
    if (weights.length === 0 || !existsSync(join(dir, `${name}.io.safetensors`))) {
      yield skipped(name, 'needs an io file and weights');
      continue;
    }
    for (const file of weights) yield* attempt(file, () => checkWeights(dir, name, file, backend));
  }
}

function checkWeights(dir: string, name: string, weights: string, backend: Backend): (GroupResult | null)[] {
  const config = readClipTextConfig(join(dir, name + CONFIG));
  using io = Safetensors.open(join(dir, `${name}.io.safetensors`));
  const [N = 0, S] = io.entry('tokens').shape;
  const pooled = io.tensors.has('pooled') || io.tensors.has('pooled_normalized');
  if (N < 1 || S !== config.context) {
    throw new Failure({ what: io.path, why: `tokens are not [N, ${config.context}]` });
  }
  using file = openTensors(join(dir, weights));
  const encoder = ClipEncoder.load(backend, config, file, { pooled });
  try {
    return compare(encoder, io, weights, N);
  } finally {
    encoder.free();
  }
}

function compare(encoder: ClipEncoder, io: Safetensors, name: string, N: number): (GroupResult | null)[] {
  const rounds = encoder.backend.elemBytes.act === 2;
  const group = (what: string, bound: number, error = maxAbs) => {
    const made = new Group(`${name} ${what}`, rounds ? CLIP_BOUNDS.rounded : bound);
    return {
      result: () => made.result(),
      check(tensor: string, got: () => ArrayLike<number>): void {
        if (io.tensors.has(tensor))
          made.add((rounds ? relRms : error)(got(), io.readFloat64(tensor)), tensor);
      },
    };
  };
  const states = group('states', CLIP_BOUNDS.states);
  const pooled = group('pooled', CLIP_BOUNDS.pooled);
  const stream = group('residual stream', CLIP_BOUNDS.activations, relMax);
  const tokens = io.readInt32('tokens');
  states.check('out', () => encoder.states(tokens));
  pooled.check('pooled', () => encoder.pooled(tokens));
  pooled.check('pooled_normalized', () => normalised(encoder.pooled(tokens), N));

  const taps = [...io.tensors.keys()].filter((key) => key.startsWith('act.'));
  const values = taps.length > 0 ? encoder.residualStream(tokens) : null;
  for (const key of taps) {
    const whole = values?.get(key.slice('act.'.length));
    stream.check(key, () => (whole ? part(whole, N, encoder, io.entry(key).shape) : []));
  }
  return [states, pooled, stream].map((each) => each.result());
}

/**
 * What a file keeps of a residual stream [N, S, C]: its first texts [n, S, C], or, with places before texts
 * as open_clip has them inside its blocks, its first places [s, N, C].
 */
function part(
  stream: ArrayLike<number>,
  N: number,
  { length: S, channels: C }: ClipEncoder,
  [n = 0, of = 0]: readonly number[],
): ArrayLike<number> {
  const places = of === N && N !== S;
  return Float64Array.from({ length: n * of * C }, (_, i) => {
    const [a, b] = [Math.floor(i / (of * C)), Math.floor(i / C) % of];
    const row = places ? b * S + a : a * S + b;
    return stream[row * C + (i % C)] ?? Number.NaN;
  });
}

/** Each of N vectors divided by its length. */
function normalised(vectors: ArrayLike<number>, N: number): Float64Array {
  const all = Float64Array.from(vectors);
  const E = all.length / N;
  for (let n = 0; n < N; n++) {
    const row = all.subarray(n * E, (n + 1) * E);
    const length = Math.hypot(...row);
    for (const [i, v] of row.entries()) row[i] = v / length;
  }
  return all;
}
