// Pictures of one size to moments, several in one pass of an autoencoder.
import type { Numbers } from '../backend/backend.ts';
import type { Runner } from '../plan/runner.ts';
import type { Size, Vae } from './autoencoder.ts';

/** One plan, made when it is first needed; a batch that is not full is filled up. */
export class PictureEncoder {
  private runner: Runner | null = null;

  /** `batch`: pictures in one pass. The autoencoder stays the caller's. */
  constructor(
    private readonly vae: Vae,
    private readonly size: Size,
    private readonly batch: number,
  ) {}

  /**
   * n pictures [in_channels, height, width] in [-1, 1], at most a batch of them -> moments [n, 2 z,
   * height / f, width / f].
   */
  encode(pictures: readonly ArrayLike<number>[]): Numbers {
    const { vae, size, batch } = this;
    if (pictures.length > batch) throw new RangeError(`${pictures.length} pictures in a batch of ${batch}`);
    this.runner ??= vae.plan('encoder', size, { batch });
    const count = vae.config.in_channels * size.height * size.width;
    const all = new Float32Array(batch * count);
    for (const [n, picture] of pictures.entries()) all.set(picture, n * count);
    this.runner.set('x', all);
    this.runner.run();
    const moments = this.runner.get('y');
    return moments.subarray(0, (moments.length / batch) * pictures.length);
  }

  free(): void {
    this.runner?.free();
    this.runner = null;
  }
}
