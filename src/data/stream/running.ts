// Reads that are on their way, so that what they read from is not closed under them.

export class Running {
  private readonly all = new Set<Promise<unknown>>();

  /** The same promise, waited for by `settled` as long as it is not kept. */
  add<T>(promise: Promise<T>): Promise<T> {
    this.all.add(promise);
    const forget = () => this.all.delete(promise);
    promise.then(forget, forget);
    return promise;
  }

  /** Waits for all that run now, failed ones too. */
  async settled(): Promise<void> {
    await Promise.allSettled(this.all);
  }
}
