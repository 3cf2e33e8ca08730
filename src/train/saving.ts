// The checkpoints of a sitting: one at a time is written, beside the steps that follow.
import { Failure, RankLost } from '../io/failure.ts';
import { Beside } from './beside.ts';
import type { Checkpoints, Saved } from './checkpoint.ts';

export class Saving {
  private readonly beside: Beside | null;
  /** The checkpoint that is being written. */
  private pending: Promise<void> | null = null;

  /**
   * `saved`: the step of the last checkpoint that is on the disk. `beside` false: training waits for each.
   */
  constructor(
    private readonly checkpoints: Checkpoints,
    private readonly warn: (text: string) => void,
    public saved: number,
    beside: boolean,
  ) {
    this.beside = beside ? new Beside(warn) : null;
  }

  /** Name of the checkpoint to go on from. */
  get latest(): string | undefined {
    return this.checkpoints.latest;
  }

  /** Writes a checkpoint while training waits. Throws a Failure where it cannot be written. */
  now(of: Saved): void {
    this.checkpoints.save(...of);
    this.saved = of[2].step;
  }

  /**
   * Begins a checkpoint; the one before is done by then (`written`). One that cannot be written is warned of:
   * a full disk may have room again later, and training is worth more than one checkpoint.
   */
  begin(of: Saved): void {
    const { step } = of[2];
    const begun = this.beside
      ? this.checkpoints.saveBeside(this.beside, ...of)
      : Promise.try(() => this.checkpoints.save(...of));
    this.pending = begun.then(
      () => {
        this.saved = step;
      },
      (error) => {
        if (!(error instanceof Failure) || error instanceof RankLost) throw error;
        this.warn(`no checkpoint of step ${step}: ${error.message}`);
      },
    );
    this.pending.catch(() => {}); // told where it is waited for
  }

  /** Waits for the checkpoint that is being written. */
  async written(): Promise<void> {
    const { pending } = this;
    this.pending = null;
    await pending;
  }

  /** Waits for what is being written, whatever comes of it, and gives its memory back. */
  async close(): Promise<void> {
    await this.written().catch(() => {});
    this.beside?.free();
  }
}
