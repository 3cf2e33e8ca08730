// Fills a partial file from an address: ranges side by side for a big file, going on where a connection
// broke, the address asked for anew each time; the whole in one stream where the server knows no ranges.

import { type Answer, ask, checkStatus, type Net, netTrouble, Passing, Retries, Stopped } from './http.ts';
import type { Chunk, PartialFile } from './partial-file.ts';

export interface Transfer {
  /** Named in messages. */
  readonly what: string;
  /** An address that serves the file's bytes; asked for again after each trouble. */
  readonly locate: () => Promise<string>;
  /** Connections at most. */
  readonly connections: number;
  readonly onBytes: () => void;
}

/** The server answered a range with the whole file. */
class NoRanges extends Error {}

/** Returns when the file is whole. Throws a Failure, or Stopped at the user's signal. */
export async function transfer(net: Net, file: PartialFile, task: Transfer): Promise<void> {
  if (file.isWhole) return;
  const control = new AbortController();
  const signal = net.signal ? AbortSignal.any([net.signal, control.signal]) : control.signal;
  const inner = { ...net, signal };
  const address = new Address(task.locate);
  const work = async () => {
    try {
      for (let chunk = file.take(); chunk; chunk = file.take())
        await fetchChunk(inner, file, chunk, task, address);
    } catch (error) {
      control.abort();
      throw error;
    }
  };
  const workers = Array.from({ length: task.connections }, work);
  const ends = await Promise.allSettled(workers);
  const errors = ends.flatMap((end) => (end.status === 'rejected' ? [end.reason as unknown] : []));
  // Those that were stopped because of the first say nothing of their own.
  const first = errors.find((error) => !(error instanceof Stopped)) ?? errors[0];
  if (first instanceof NoRanges) await fetchWhole(net, file, task, address);
  else if (first !== undefined) throw first;
}

/** The address in use, shared by the connections; renewed once for all that had trouble with it. */
class Address {
  #now: Promise<string> | undefined;

  constructor(private readonly locate: () => Promise<string>) {}

  get(): Promise<string> {
    this.#now ??= this.locate();
    return this.#now;
  }

  drop(used: Promise<string>): void {
    if (this.#now === used) this.#now = undefined;
  }
}

async function fetchChunk(
  net: Net,
  file: PartialFile,
  chunk: Chunk,
  task: Transfer,
  address: Address,
): Promise<void> {
  const retries = new Retries(net, task.what);
  for (;;) {
    const from = chunk.start + file.doneOf(chunk);
    if (from >= chunk.end) return;
    const used = address.get();
    try {
      await readRange(net, await used, from, chunk, file, task);
    } catch (error) {
      address.drop(used);
      if (chunk.start + file.doneOf(chunk) > from) retries.progressed();
      await retries.wait(error);
    }
  }
}

async function readRange(
  net: Net,
  address: string,
  from: number,
  chunk: Chunk,
  file: PartialFile,
  task: Transfer,
): Promise<void> {
  const isAll = from === 0 && chunk.end === file.bytes;
  const answer = await ask(net, address, isAll ? {} : { range: `bytes=${from}-${chunk.end - 1}` });
  const { response, url } = answer;
  if (response.status === 416) {
    answer.close();
    throw new Passing(`${url.host} says that the file ends before byte ${from}`);
  }
  checkStatus(net, answer, task.what);
  if (response.status !== 206 && !isAll) {
    answer.close();
    throw new NoRanges();
  }
  const range = response.headers.get('content-range');
  if (response.status === 206) checkRange(range, from, file.bytes, answer);
  else checkLength(answer, file.bytes);
  await readBody(net, answer, (bytes) => {
    file.append(chunk, bytes);
    task.onBytes();
    return chunk.start + file.doneOf(chunk) < chunk.end;
  });
}

async function fetchWhole(net: Net, file: PartialFile, task: Transfer, address: Address): Promise<void> {
  net.note(`${task.what}: the server does not serve parts of files, so it is read in one piece`);
  const retries = new Retries(net, task.what);
  let most = 0;
  for (;;) {
    const used = address.get();
    file.restart();
    try {
      const answer = await ask(net, await used);
      checkStatus(net, answer, task.what);
      checkLength(answer, file.bytes);
      let chunk = file.take();
      await readBody(net, answer, (bytes) => {
        for (let rest = bytes; chunk && rest.length > 0; ) {
          const before = file.doneOf(chunk);
          file.append(chunk, rest);
          rest = rest.subarray(file.doneOf(chunk) - before);
          if (chunk.start + file.doneOf(chunk) === chunk.end) chunk = file.take();
        }
        task.onBytes();
        return chunk !== undefined;
      });
      return;
    } catch (error) {
      address.drop(used);
      if (file.received > most) retries.progressed();
      most = Math.max(most, file.received);
      await retries.wait(error);
    }
  }
}

/** Hands the body over until `take` says that it has enough; a body that ends before that is Passing. */
async function readBody(net: Net, answer: Answer, take: (bytes: Uint8Array) => boolean): Promise<void> {
  const { response, url } = answer;
  try {
    if (response.body) {
      for await (const bytes of response.body) {
        answer.alive();
        if (!take(bytes)) return;
      }
    }
    throw new Passing(`${url.host} ended the connection early`);
  } catch (error) {
    throw netTrouble(net, error, url.host);
  } finally {
    answer.close();
  }
}

function checkRange(range: string | null, from: number, bytes: number, answer: Answer): void {
  const [, start, total] = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(range ?? '') ?? [];
  if (Number(start) === from && (total === '*' || Number(total) === bytes)) return;
  answer.close();
  const said = range === null ? 'no range' : `the range ${range}`;
  throw new Passing(`${answer.url.host} sends ${said} for byte ${from} of ${bytes}`);
}

function checkLength(answer: Answer, bytes: number): void {
  const length = answer.response.headers.get('content-length');
  if (length === null || Number(length) === bytes) return;
  answer.close();
  throw new Passing(`${answer.url.host} sends ${length} bytes where the file has ${bytes}`);
}
