// A plain forward pass of a network as a plan: captions and noised images to network tokens.
import type { ElemBytes } from '../backend/backend.ts';
import { edmCoefficients } from '../plan/ops/edm.ts';
import { patchify } from '../plan/ops/patch.ts';
import { freeze, type Plan } from '../plan/plan.ts';
import { Trace } from '../plan/trace.ts';
import { denoiseTokens, directView, embedCaption } from '../model/dit.ts';
import { captionInput, contextFor, type Network } from './network.ts';

export interface ForwardPass {
  /** Images N. */
  readonly batch: number;
  /** Patches K that the backbone sees, given as input `ids` [N, K]; null for all. */
  readonly kept: number | null;
  /** Caption length S, where captions come as embeddings. */
  readonly captionLength: number;
  readonly sigmaData: number;
}

/** Inputs: x [N, C, S, S], sigma [N], words or captions, ids; output: tokens [N, K, p p C]. */
export function forwardPlan(network: Network, pass: ForwardPass, elemBytes: ElemBytes): Plan {
  const trace = new Trace();
  const g = contextFor(network, trace, { exactRows: true });
  const { dit } = network;
  const { in_channels: C, input_size: S, patch_size } = dit.config;
  const { batch: N, kept } = pass;
  const caption = embedCaption(g, dit, captionInput(g, network, trace, N, pass.captionLength));
  const ids = kept === null ? null : trace.input('ids', [N, kept], 'i32');
  const { cIn, cNoise } = edmCoefficients(trace.input('sigma', [N], 'real'), pass.sigmaData);
  const patches = patchify(trace.input('x', [N, C, S, S], 'real'), patch_size, cIn);
  const view = directView(g, dit, caption);
  trace.output('tokens', denoiseTokens(g, dit, patches, cNoise, caption.pooled, view, ids));
  return freeze('forward', trace, { elemBytes });
}
