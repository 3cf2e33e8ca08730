// Small sets of shards with latents and captions, and a recipe that trains on two of them.
import { float32ToF16 } from '../../../src/io/dtype.ts';
import { MdsWriter, type MdsWriterOptions } from '../../../src/io/mds/writer.ts';
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

interface SetOptions extends MdsWriterOptions {
  /** A sample whose smaller latent begins with a number that is not finite. */
  readonly spoilt?: number;
}

/** So many samples with latents of both sizes, and captions in both forms. */
export function writeSet(place: Place, name: string, count: number, options: SetOptions = {}): void {
  const columns = {
    ...{ caption: 'str', caption_latents: 'bytes', caption_tokens: 'bytes' },
    ...{ latents_64: 'bytes', latents_128: 'bytes' },
  };
  const { spoilt, ...written } = options;
  using writer = MdsWriter.open(place.at(name), columns, { sizeLimit: 40_000, ...written });
  for (let i = 0; i < count; i++) {
    const caption = `a fox number ${i} of ${name}`;
    const { ids } = clipTokenizer().encode(caption);
    const small = halves(4 * 8 * 8, 1000 + i);
    if (i === spoilt) small[1] = 0xff; // a half of the highest exponent
    writer.write({
      caption,
      caption_latents: halves(TOKENS * WIDTH, i),
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
