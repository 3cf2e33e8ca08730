// Small sets of shards with latents and captions, and a recipe that trains on two of them.
import { bytesOf, float32ToF16 } from '../../../src/io/dtype.ts';
import { MdsWriter, type MdsWriterOptions } from '../../../src/io/mds/writer.ts';
import { fromQ8, toQ8 } from '../../../src/io/q8.ts';
import { clipTokenizer } from '../../../src/text/vocabulary.ts';
import { randomValues } from '../op-case.ts';
import type { Place } from './program.ts';

const TOKENS = 77;
const WIDTH = 8;

function halves(count: number, seed: number): Uint8Array {
  const bits = new Uint16Array(count);
  float32ToF16(Float32Array.from(randomValues(count, seed)), bits);
  return new Uint8Array(bits.buffer);
}

function statesOf(item: number, q8: SetOptions['q8']): Uint8Array {
  const bytes = halves(TOKENS * WIDTH, item);
  if (q8 === undefined) return bytes;
  const packed = toQ8(Float32Array.from(new Float16Array(bytes.buffer)));
  return q8 === 'packed' ? packed : bytesOf(fromQ8(packed));
}

interface SetOptions extends MdsWriterOptions {
  /** A sample whose smaller latent begins with a number that is not finite. */
  readonly spoilt?: number;
  /** States in 8 bits, or as the halves that those stand for. */
  readonly q8?: 'packed' | 'unpacked';
}

/** So many samples with latents of both sizes, and captions in both forms. */
export function writeSet(place: Place, name: string, count: number, options: SetOptions = {}): void {
  const { spoilt, q8, ...written } = options;
  const states = q8 === 'packed' ? 'caption_latents_q8' : 'caption_latents';
  const columns = {
    ...{ caption: 'str', [states]: 'bytes', caption_tokens: 'bytes' },
    ...{ latents_64: 'bytes', latents_128: 'bytes' },
  };
  using writer = MdsWriter.open(place.at(name), columns, { sizeLimit: 40_000, ...written });
  for (let i = 0; i < count; i++) {
    const caption = `a fox number ${i} of ${name}`;
    const { ids } = clipTokenizer().encode(caption);
    const small = halves(4 * 8 * 8, 1000 + i);
    if (i === spoilt) small[1] = 0xff; // a half of the highest exponent
    writer.write({
      caption,
      [states]: statesOf(i, q8),
      caption_tokens: new Uint8Array(Uint16Array.from(ids).buffer),
      latents_64: small,
      latents_128: halves(4 * 16 * 16, 2000 + i),
    });
  }
  writer.finish();
}

/** Two stages of two sizes over two sets. */
export const latentRecipe = (encoder: 'states' | 'clip') => `
[model]
preset = "nano"
in_channels = 4
caption_channels = ${WIDTH}
[image]
kind = "latents"
vae = "vae.safetensors"
[text]
encoder = "${encoder}"
clip = "clip.safetensors"
length = ${TOKENS}
[[data.source]]
name = "mds"
path = "data/a"
[[data.source]]
name = "mds"
path = "data/b"
stages = [1]
[train]
batch_size = 4
log_every = 1
checkpoint_every = 2
preview_prompts = ["a fox", "a rocket"]
[sample]
steps = 2
[[stage]]
steps = 5
mask_ratio = 0.5
[[stage]]
steps = 3
input_size = 16
pos_interp_scale = 2.0
optimizer = "drop"
`;
