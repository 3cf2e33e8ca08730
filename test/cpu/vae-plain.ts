// The autoencoder of the SDXL family written plainly, for tests: planes of Float64Array, loops over every
// sum, weights by their names in files. Written from the description in the golden README, not from src/vae.
import type { VaeConfig } from '../../src/vae/config.ts';

/** Channels of one picture, each [H, W]. */
export interface Planes {
  readonly C: number;
  readonly H: number;
  readonly W: number;
  readonly v: Float64Array;
}

export type Tensors = Record<string, { readonly shape: readonly number[]; readonly v: Float64Array }>;

type Padding = readonly [top: number, bottom: number];

class Plain {
  constructor(
    readonly t: Tensors,
    readonly c: VaeConfig,
  ) {}

  conv(name: string, x: Planes, stride = 1, [top, bottom]: Padding = [1, 1]): Planes {
    const { shape, v: w } = this.t[`${name}.weight`]!;
    const [Co = 0, , k = 1] = shape;
    const [before, after] = k === 1 ? [0, 0] : [top, bottom];
    const H = Math.floor((x.H + before + after - k) / stride) + 1;
    const W = Math.floor((x.W + before + after - k) / stride) + 1;
    const v = new Float64Array(Co * H * W);
    for (let o = 0; o < Co; o++) {
      for (let r = 0; r < H; r++) {
        for (let s = 0; s < W; s++) {
          let sum = this.t[`${name}.bias`]!.v[o]!;
          for (let c = 0; c < x.C; c++) {
            for (let i = 0; i < k; i++) {
              const row = r * stride + i - before;
              if (row < 0 || row >= x.H) continue;
              for (let j = 0; j < k; j++) {
                const col = s * stride + j - before;
                if (col < 0 || col >= x.W) continue;
                sum += w[((o * x.C + c) * k + i) * k + j]! * x.v[(c * x.H + row) * x.W + col]!;
              }
            }
          }
          v[(o * H + r) * W + s] = sum;
        }
      }
    }
    return { C: Co, H, W, v };
  }

  norm(name: string, x: Planes): Planes {
    const size = (x.C / this.c.norm_num_groups) * x.H * x.W;
    const v = x.v.slice();
    for (let at = 0; at < v.length; at += size) {
      const part = v.subarray(at, at + size);
      const mean = part.reduce((a, b) => a + b, 0) / size;
      const variance = part.reduce((a, b) => a + (b - mean) ** 2, 0) / size;
      for (let i = 0; i < size; i++) {
        const c = Math.floor((at + i) / (x.H * x.W));
        const hat = (part[i]! - mean) / Math.sqrt(variance + 1e-6);
        part[i] = hat * this.t[`${name}.weight`]!.v[c]! + this.t[`${name}.bias`]!.v[c]!;
      }
    }
    return { ...x, v };
  }

  normSilu(name: string, x: Planes): Planes {
    const y = this.norm(name, x);
    return { ...y, v: y.v.map((a) => a / (1 + Math.exp(-a))) };
  }

  resnet(name: string, x: Planes): Planes {
    const h = this.conv(`${name}.conv1`, this.normSilu(`${name}.norm1`, x));
    const y = this.conv(`${name}.conv2`, this.normSilu(`${name}.norm2`, h));
    const skip = this.t[`${name}.conv_shortcut.weight`] ? this.conv(`${name}.conv_shortcut`, x) : x;
    return { ...y, v: y.v.map((a, i) => a + skip.v[i]!) };
  }

  attention(name: string, x: Planes): Planes {
    const T = x.H * x.W;
    const h = this.norm(`${name}.group_norm`, x);
    const of = (part: string) => this.conv(`${name}.${part}`, h).v;
    const [q, k, v] = [of('to_q'), of('to_k'), of('to_v')];
    const y = new Float64Array(x.v.length);
    for (let t = 0; t < T; t++) {
      const e = Array.from({ length: T }, (_, s) => {
        let dot = 0;
        for (let c = 0; c < x.C; c++) dot += q[c * T + t]! * k[c * T + s]!;
        return Math.exp(dot / Math.sqrt(x.C));
      });
      const sum = e.reduce((a, b) => a + b, 0);
      for (let c = 0; c < x.C; c++) {
        for (let s = 0; s < T; s++) y[c * T + t]! += (e[s]! / sum) * v[c * T + s]!;
      }
    }
    const out = this.conv(`${name}.to_out.0`, { ...x, v: y });
    return { ...x, v: x.v.map((a, i) => a + out.v[i]!) };
  }

  mid(name: string, x: Planes): Planes {
    let h = this.resnet(`${name}.resnets.0`, x);
    if (this.c.mid_block_add_attention) h = this.attention(`${name}.attentions.0`, h);
    return this.resnet(`${name}.resnets.1`, h);
  }

  head(name: string, x: Planes): Planes {
    return this.conv(`${name}.conv_out`, this.normSilu(`${name}.conv_norm_out`, x));
  }
}

function enlarged({ C, H, W, v }: Planes): Planes {
  const at = (i: number) => {
    const [c, r, s] = [Math.floor(i / (4 * H * W)), Math.floor(i / (2 * W)) % (2 * H), i % (2 * W)];
    return v[(c * H + Math.floor(r / 2)) * W + Math.floor(s / 2)]!;
  };
  return { C, H: 2 * H, W: 2 * W, v: Float64Array.from({ length: 4 * v.length }, (_, i) => at(i)) };
}

/** Picture to moments. */
export function plainEncode(t: Tensors, c: VaeConfig, picture: Planes): Planes {
  const m = new Plain(t, c);
  let x = m.conv('encoder.conv_in', picture);
  for (let i = 0; i < c.block_out_channels.length; i++) {
    const name = `encoder.down_blocks.${i}`;
    for (let j = 0; j < c.layers_per_block; j++) x = m.resnet(`${name}.resnets.${j}`, x);
    const down = `${name}.downsamplers.0.conv`;
    if (i < c.block_out_channels.length - 1) x = m.conv(down, x, 2, [0, 1]);
  }
  x = m.head('encoder', m.mid('encoder.mid_block', x));
  return c.use_quant_conv ? m.conv('quant_conv', x) : x;
}

/** Latent to picture. */
export function plainDecode(t: Tensors, c: VaeConfig, latent: Planes): Planes {
  const m = new Plain(t, c);
  const z = c.use_post_quant_conv ? m.conv('post_quant_conv', latent) : latent;
  let x = m.mid('decoder.mid_block', m.conv('decoder.conv_in', z));
  for (let i = 0; i < c.block_out_channels.length; i++) {
    const name = `decoder.up_blocks.${i}`;
    for (let j = 0; j <= c.layers_per_block; j++) x = m.resnet(`${name}.resnets.${j}`, x);
    if (i < c.block_out_channels.length - 1) x = m.conv(`${name}.upsamplers.0.conv`, enlarged(x));
  }
  return m.head('decoder', x);
}
