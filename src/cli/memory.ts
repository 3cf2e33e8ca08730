// What `info --memory` prints: GPU memory of drawing with published weights, counted without a GPU.

import { CONVOLUTION_WORKSPACE } from '../backend/cuda/convolutions.ts';
import { STAGING_BUFFERS_BYTES } from '../backend/cuda/device.ts';
import { PRODUCT_WORKSPACE } from '../backend/cuda/products.ts';
import { encodeRecord } from '../io/jsonl.ts';
import { plannedMemory, type SamplingMemory } from '../sample/memory.ts';
import { SDXL_VAE } from '../sample/published.ts';
import { DFN5B_TEXT } from '../text/clip-config.ts';
import { readVaeConfig } from '../vae/config.ts';
import { findWorkload, type WorkloadValues } from './workload.ts';

/** One way of convolving. */
interface Way {
  readonly convolutions: 'cudnn' | 'im2col';
  readonly memory: SamplingMemory;
  /** Bytes that the libraries may work in, at most. */
  readonly workspaces: { readonly cublaslt: number; readonly cudnn: number };
  readonly total: number;
}

/**
 * The text of the page or record. CLIP is DFN5B's text tower, the autoencoder SDXL's with the model's
 * channels.
 */
export async function memoryText(
  values: WorkloadValues & { readonly precision: 'bf16' | 'fp32'; readonly json: boolean },
): Promise<string> {
  const { name, recipe, stage } = findWorkload(values, { mask: 0, batch: 1 }, process.env);
  const { precision } = values;
  const vae = { ...SDXL_VAE, latent_channels: recipe.model.in_channels };
  const batch = stage.batch_size ?? 1;
  const parts = { recipe, clip: DFN5B_TEXT, vae: readVaeConfig(vae, name), batch };
  const ways: Way[] = [];
  for (const convolutions of ['cudnn', 'im2col'] as const) {
    const memory = await plannedMemory(parts, precision, convolutions === 'cudnn');
    // Workspaces of cuDNN are powers of two, each larger than the one before.
    const cudnn = convolutions === 'cudnn' ? 2 * CONVOLUTION_WORKSPACE[precision] : 0;
    const workspaces = { cublaslt: PRODUCT_WORKSPACE, cudnn };
    ways.push({ convolutions, memory, workspaces, total: memory.peak + PRODUCT_WORKSPACE + cudnn });
  }
  const { side } = ways[0]!.memory;
  const about = { kind: 'memory', model: name, precision, batch, width: side, height: side };
  const pinned = STAGING_BUFFERS_BYTES;
  if (values.json) return `${encodeRecord({ ...about, ways, host_pinned: pinned })}\n`;
  const pictures = batch === 1 ? 'one picture' : `${batch} pictures`;
  return [
    `${pictures} of ${side} x ${side} by ${name} in ${precision}, guided, on a GPU; MB are 10^6 bytes`,
    ...ways.flatMap(page),
    `${'host'.padEnd(12)}${mb(pinned)} pinned, and weights one tensor at a time; not counted: what the`,
    `${''.padEnd(12)}driver takes for its context and for the code of libraries`,
    '',
  ].join('\n');
}

function page({ convolutions, memory, workspaces, total }: Way): string[] {
  const { weights, plans } = memory;
  const row = (name: string, part: SamplingMemory['weights']) =>
    `  ${name.padEnd(10)}transformer ${mb(part.transformer)}, text tower ${mb(part.text)}, ` +
    `autoencoder ${mb(part.autoencoder)}`;
  const { cublaslt, cudnn } = workspaces;
  return [
    `convolutions by ${convolutions}: ${mb(total)} at most`,
    row('weights', weights),
    row('plans', plans),
    `  ${'libraries'.padEnd(10)}cuBLASLt ${mb(cublaslt)}${cudnn > 0 ? `, cuDNN up to ${mb(cudnn)}` : ''}`,
  ];
}

function mb(bytes: number): string {
  return `${(bytes / 1e6).toLocaleString('en-US', { maximumFractionDigits: 0 })} MB`;
}
