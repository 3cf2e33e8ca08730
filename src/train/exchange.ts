// What ranks tell each other between steps: numbers that all must agree on, and shares of the state collected
// into whole buffers for checkpoints and previews. All ranks make the same calls in the same order.
import type { Backend, Region } from '../backend/backend.ts';
import { allGather } from '../plan/ops/collective.ts';
import { freeze } from '../plan/plan.ts';
import { Runner } from '../plan/runner.ts';
import { Trace } from '../plan/trace.ts';
import { Agreement } from './agreement.ts';
import type { Share } from './share.ts';
import type { TrainingState } from './trainer.ts';

/** Kinds of state that ranks hold shares of. */
export type Shared = 'master' | 'ema' | 'm' | 'v';

const COPY_BYTES = 64 * 2 ** 20;

export class Exchange {
  private readonly agreement: Agreement;
  private readonly gathers = new Map<'grad' | 'master', Runner>();
  /** The gradient's memory holds something else at present. */
  private lent = false;

  constructor(
    private readonly backend: Backend,
    private readonly share: Share,
    private readonly buffers: TrainingState,
  ) {
    this.agreement = new Agreement(backend);
  }

  /** Sums over ranks of up to 256 numbers, in float32. */
  agree(values: readonly number[]): Promise<number[]> {
    return this.agreement.sums(values);
  }

  /**
   * All of a kind of state in one flat buffer, frozen parameters with it. It lies where gradients are summed:
   * good until the next call or `giveBack`.
   */
  whole(kind: Shared): Region {
    const { backend, share, buffers } = this;
    const { real } = backend.elemBytes;
    const { grad, master, weight } = buffers;
    if (kind === 'master') {
      if (master !== weight) this.gather('master').run();
      return master;
    }
    const from = buffers[kind];
    if (!from) return master;
    this.lent = true;
    copyBytes(backend, from, 0, grad, share.first * real, share.count * real);
    this.gather('grad').run();
    const frozen = share.trainableEnd * real;
    copyBytes(backend, master, frozen, grad, frozen, Math.min(master.bytes, grad.bytes) - frozen);
    return grad;
  }

  /** Makes the gradient's memory ready for a step. */
  giveBack(): void {
    if (this.lent) this.backend.fill(this.buffers.grad, 0);
    this.lent = false;
  }

  free(): void {
    this.agreement[Symbol.dispose]();
  }

  private gather(space: 'grad' | 'master'): Runner {
    const known = this.gathers.get(space);
    if (known) return known;
    const { backend, share } = this;
    const trace = new Trace();
    allGather(trace.fixed(space, space, [share.ranks * share.count], 0, { elem: 'real' }), share);
    const plan = freeze(`gather ${space}`, trace, { elemBytes: backend.elemBytes });
    const made = new Runner(backend, plan, { [space]: this.buffers[space] });
    this.gathers.set(space, made);
    return made;
  }
}

/** Copies bytes from one region to another by way of the host. */
export function copyBytes(
  backend: Backend,
  from: Region,
  fromByte: number,
  to: Region,
  toByte: number,
  bytes: number,
): void {
  for (let at = 0; at < bytes; at += COPY_BYTES) {
    const part = new Uint8Array(Math.min(COPY_BYTES, bytes - at));
    backend.read(from, fromByte + at, part);
    backend.write(to, toByte + at, part);
  }
}
