// Finished pictures behind addresses that cannot be guessed, for clients that asked for a URL: the newest,
// for an hour, within a bound of memory.

const LIFE_MS = 3_600_000;
const MAX_BYTES = 64 * 2 ** 20;

interface Kept {
  readonly png: Uint8Array;
  readonly until: number;
}

export class Shelf {
  private readonly kept = new Map<string, Kept>();
  private bytes = 0;

  constructor(
    private readonly maxBytes = MAX_BYTES,
    private readonly now: () => number = Date.now,
  ) {}

  /** Keeps a picture; returns its name. The oldest make room. */
  put(png: Uint8Array): string {
    const id = Buffer.from(crypto.getRandomValues(new Uint8Array(16))).toString('hex');
    this.kept.set(id, { png, until: this.now() + LIFE_MS });
    this.bytes += png.length;
    for (const [old, { until }] of this.kept) {
      if (old === id || (this.bytes <= this.maxBytes && until > this.now())) break;
      this.drop(old);
    }
    return id;
  }

  /** The picture of that name, if it is still there. */
  get(id: string): Uint8Array | undefined {
    const found = this.kept.get(id);
    if (!found || found.until > this.now()) return found?.png;
    this.drop(id);
    return undefined;
  }

  private drop(id: string): void {
    this.bytes -= this.kept.get(id)!.png.length;
    this.kept.delete(id);
  }
}
