// MicroDiT's forward pass once more, written down plainly in float64 after the reference
// (SonyResearch/micro_diffusion, models/dit.py and models/utils.py): one image, nested loops, nothing shared
// with the model.
import type { ModelConfig } from '../../src/model/config.ts';

/** Rows of numbers: [T][C]. */
type Matrix = number[][];

/** Parameters and buffers by name: values and shape. */
export type State = ReadonlyMap<string, { readonly values: Float64Array; readonly shape: readonly number[] }>;

const dot = (a: readonly number[], w: Float64Array, at: number) =>
  a.reduce((s, v, i) => s + v * w[at + i]!, 0);
const add = (a: Matrix, b: Matrix): Matrix => a.map((row, t) => row.map((v, c) => v + b[t]![c]!));
const silu = (x: number) => x / (1 + Math.exp(-x));
const geluTanh = (x: number) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));

/** Taylor series of erf; beyond 6 it is 1 in float64. */
function erf(x: number): number {
  if (Math.abs(x) > 6) return Math.sign(x);
  let term = x;
  let sum = x;
  for (let n = 1; n < 200; n++) {
    term *= (-x * x) / n;
    sum += term / (2 * n + 1);
  }
  return (2 / Math.sqrt(Math.PI)) * sum;
}

const geluErf = (x: number) => 0.5 * x * (1 + erf(x / Math.SQRT2));

function softmax(x: readonly number[]): number[] {
  const top = Math.max(...x);
  const powers = x.map((v) => Math.exp(v - top));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((v) => v / sum);
}

export class PlainDiT {
  constructor(
    private readonly c: ModelConfig,
    private readonly state: State,
    /** Of the image, in the numbers that the network works on. */
    private readonly sides = { height: c.input_size, width: c.input_size },
  ) {}

  /** x [C][H][W] flat, y [L][caption_channels]; ids of kept patches, or null. Returns the image, flat. */
  forward(x: readonly number[], t: number, y: Matrix, ids: readonly number[] | null): number[] {
    const { c } = this;
    const pos = this.state.get('pos_embed')!.values;
    const embedded = this.patches(x).map((patch) => this.linearRow('x_embedder.proj', patch));
    let h = embedded.map((row, i) => row.map((v, j) => v + pos[i * c.dim + j]!));
    const text = this.preprocess(this.mlp('y_embedder.y_proj', y));
    const mean = text[0]!.map((_, j) => text.reduce((s, row) => s + row[j]!, 0) / text.length);
    const pooled = this.mlp('pooled_y_emb_process', [mean])[0]!;
    const cond = this.timestep(t).map((v, i) => v + pooled[i]!);
    const keep = (tokens: Matrix) => (ids ? ids.map((id) => tokens[id]!) : tokens);

    if (c.masking === 'naive') h = keep(h);
    if (c.use_patch_mixer) {
      h = this.map('patch_mixer_map_xin', h);
      const mixText = this.map('patch_mixer_map_y', text);
      for (let i = 0; i < c.patch_mixer_depth; i++) h = this.block(`patch_mixer.${i}`, h, mixText, cond);
    }
    if (c.masking !== 'naive') h = keep(h);
    if (c.use_patch_mixer) h = this.map('patch_mixer_map_xout', h);
    for (let i = 0; i < c.depth; i++) h = this.block(`blocks.${i}`, h, text, cond);

    const [shift = [], scale = []] = this.modulation('final_layer.adaLN_modulation.1', cond, 2);
    const tokens = this.linear(
      'final_layer.linear',
      modulate(this.norm('final_layer.norm_final', h), shift, scale),
    );
    return this.image(tokens, ids);
  }

  /** Patches in reading order, each (channel, row, column). */
  private patches(x: readonly number[]): Matrix {
    const { patch_size: p, in_channels: C } = this.c;
    const { height: H, width: W } = this.sides;
    const grid = W / p;
    return range((H / p) * grid).map((token) =>
      range(C).flatMap((ch) =>
        range(p).flatMap((i) =>
          range(p).map((j) => x[(ch * H + Math.floor(token / grid) * p + i) * W + (token % grid) * p + j]!),
        ),
      ),
    );
  }

  /** Tokens (row, column, channel) back to an image; dropped ones are the mask token. */
  private image(tokens: Matrix, ids: readonly number[] | null): number[] {
    const { patch_size: p, in_channels: C } = this.c;
    const { height: H, width: W } = this.sides;
    const mask = Array.from(this.state.get('mask_token')!.values);
    const out = new Array<number>(C * H * W);
    const grid = W / p;
    for (let token = 0; token < (H / p) * grid; token++) {
      const place = ids ? ids.indexOf(token) : token;
      const patch = place < 0 ? mask : tokens[place]!;
      for (const [k, v] of patch.entries()) {
        const [i, j, ch] = [Math.floor(k / (p * C)), Math.floor(k / C) % p, k % C];
        out[(ch * H + Math.floor(token / grid) * p + i) * W + (token % grid) * p + j] = v;
      }
    }
    return out;
  }

  private timestep(t: number): number[] {
    const frequencies = range(256).map((i) => t * Math.exp((-Math.log(10000) * i) / 256));
    const wave = [...frequencies.map(Math.cos), ...frequencies.map(Math.sin)];
    return this.linearRow('t_embedder.mlp.2', this.linearRow('t_embedder.mlp.0', wave).map(geluTanh));
  }

  private preprocess(y: Matrix): Matrix {
    const name = 'y_emb_preprocess';
    const x = add(y, this.selfAttention(`${name}.attn`, this.norm(`${name}.norm1`, y)));
    return add(x, this.dense(`${name}.mlp`, this.norm(`${name}.norm2`, x)));
  }

  private block(name: string, x: Matrix, y: Matrix, cond: readonly number[]): Matrix {
    const chunks = this.modulation(`${name}.adaLN_modulation.1`, cond, 6);
    const [shiftA = [], scaleA = [], gateA = [], shiftM = [], scaleM = [], gateM = []] = chunks;
    const gated = (gate: readonly number[], h: Matrix) => h.map((row) => row.map((v, i) => v * gate[i]!));
    const attn = this.selfAttention(`${name}.attn`, modulate(this.norm(`${name}.norm1`, x), shiftA, scaleA));
    const x1 = add(x, gated(gateA, attn));
    const x2 = add(x1, this.crossAttention(`${name}.cross_attn`, this.norm(`${name}.norm2`, x1), y));
    const h = modulate(this.norm(`${name}.norm3`, x2), shiftM, scaleM);
    const isExperts = this.state.has(`${name}.mlp.gate.weight`);
    return add(x2, gated(gateM, isExperts ? this.experts(`${name}.mlp`, h) : this.dense(`${name}.mlp`, h)));
  }

  private modulation(name: string, cond: readonly number[], parts: number): Matrix {
    const all = this.linearRow(name, cond.map(geluTanh));
    const width = all.length / parts;
    return range(parts).map((i) => all.slice(i * width, (i + 1) * width));
  }

  private selfAttention(name: string, x: Matrix): Matrix {
    const qkv = this.linear(`${name}.qkv`, x);
    const width = qkv[0]!.length / 3;
    const part = (i: number) => qkv.map((row) => row.slice(i * width, (i + 1) * width));
    return this.linear(
      `${name}.proj`,
      this.attend(this.plainNorm(part(0)), this.plainNorm(part(1)), part(2)),
    );
  }

  private crossAttention(name: string, x: Matrix, y: Matrix): Matrix {
    const q = this.plainNorm(this.linear(`${name}.q_linear`, x));
    const kv = this.linear(`${name}.kv_linear`, y);
    const width = kv[0]!.length / 2;
    const k = this.plainNorm(kv.map((row) => row.slice(0, width)));
    return this.linear(
      `${name}.proj`,
      this.attend(
        q,
        k,
        kv.map((row) => row.slice(width)),
      ),
    );
  }

  private attend(q: Matrix, k: Matrix, v: Matrix): Matrix {
    const D = this.c.head_dim;
    return q.map((query) =>
      range(query.length / D).flatMap((head) => {
        const at = head * D;
        const scores = k.map((key) => range(D).reduce((s, i) => s + query[at + i]! * key[at + i]!, 0));
        const weights = softmax(scores.map((s) => s / Math.sqrt(D)));
        return range(D).map((i) => weights.reduce((s, w, j) => s + w * v[j]![at + i]!, 0));
      }),
    );
  }

  private dense(name: string, x: Matrix): Matrix {
    const [a, b] = [this.linear(`${name}.w1`, x), this.linear(`${name}.w2`, x)];
    return this.linear(
      `${name}.w3`,
      a.map((row, t) => row.map((v, i) => silu(v) * b[t]![i]!)),
    );
  }

  private experts(name: string, x: Matrix): Matrix {
    const E = this.c.num_experts;
    const K = Math.trunc((this.c.expert_capacity * x.length) / E);
    const probs = this.linear(`${name}.gate`, x).map(softmax);
    const [w1, w2] = [this.state.get(`${name}.w1`)!, this.state.get(`${name}.w2`)!];
    const [, C = 0, F = 0] = w1.shape;
    const out = x.map((row) => row.map(() => 0));
    for (let e = 0; e < E; e++) {
      const order = range(x.length).sort((a, b) => probs[b]![e]! - probs[a]![e]! || a - b);
      for (const t of order.slice(0, K)) {
        const hidden = range(F).map((f) =>
          geluErf(x[t]!.reduce((s, v, c) => s + v * w1.values[(e * C + c) * F + f]!, 0)),
        );
        for (let c = 0; c < C; c++) {
          const sum = hidden.reduce((s, v, f) => s + v * w2.values[(e * F + f) * C + c]!, 0);
          out[t]![c]! += probs[t]![e]! * sum;
        }
      }
    }
    return out;
  }

  private mlp(name: string, x: Matrix): Matrix {
    const h = this.linear(`${name}.fc1`, x).map((row) => row.map(geluTanh));
    return this.linear(`${name}.fc2`, this.norm(`${name}.norm`, h));
  }

  private map(name: string, x: Matrix): Matrix {
    return this.state.has(`${name}.0.weight`) ? this.linear(`${name}.1`, this.norm(`${name}.0`, x)) : x;
  }

  private linear(name: string, x: Matrix): Matrix {
    return x.map((row) => this.linearRow(name, row));
  }

  private linearRow(name: string, row: readonly number[]): number[] {
    const weight = this.state.get(`${name}.weight`)!.values;
    const bias = this.state.get(`${name}.bias`)?.values;
    const out = weight.length / row.length;
    return range(out).map((o) => dot(row, weight, o * row.length) + (bias?.[o] ?? 0));
  }

  private norm(name: string, x: Matrix): Matrix {
    const weight = this.state.get(`${name}.weight`)!.values;
    return this.plainNorm(x).map((row) => row.map((v, i) => v * weight[i]!));
  }

  private plainNorm(x: Matrix): Matrix {
    return x.map((row) => {
      const mean = row.reduce((a, b) => a + b, 0) / row.length;
      const variance = row.reduce((s, v) => s + (v - mean) ** 2, 0) / row.length;
      return row.map((v) => (v - mean) / Math.sqrt(variance + this.c.norm_eps));
    });
  }
}

const range = (n: number) => Array.from({ length: n }, (_, i) => i);

function modulate(x: Matrix, shift: readonly number[], scale: readonly number[]): Matrix {
  return x.map((row) => row.map((v, i) => v * (1 + scale[i]!) + shift[i]!));
}
