// Files of a Hugging Face hub, or of a plain address, brought into the caches that huggingface_hub and torch
// use: taken from there when they are there, else downloaded with resume, checked, and only then named.

import { renameSync, rmSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { makeFolder, requireFreeBytes } from './atomic.ts';
import { type Checksums, checksums } from './hub/checksum.ts';
import { Failure } from './failure.ts';
import { ask, checkStatus, type Net, retrying, Stopped } from './hub/http.ts';
import { CachedRepository } from './hub/cache.ts';
import type { HubSettings } from './hub/settings.ts';
import { takeLock } from './hub/lock.ts';
import { osFailure } from './oserror.ts';
import { PartialFile } from './hub/partial-file.ts';
import { type Pin, Pins } from './hub/pins.ts';
import { transfer } from './hub/transfer.ts';

/** A file to have, and what is known of it beforehand. */
export interface RemoteFile {
  /** Named in messages. */
  readonly name: string;
  /** ORG/NAME at the hub, or undefined for a plain address. */
  readonly repository?: string;
  readonly revision?: string;
  readonly url?: string;
  /** Path in the repository, or name of the file. */
  readonly path: string;
  /** null where it is not known. */
  readonly sha256: string | null;
  /** First digits of it, where no more is known. */
  readonly sha256_prefix?: string;
}

export interface PullOptions {
  /** Take the newest revision, and forget what was pinned. */
  readonly update?: boolean;
  readonly connections?: number;
  readonly chunkBytes?: number;
  /** Called as bytes come, and again while the checksum is read. */
  readonly onProgress?: (doing: 'download' | 'check', done: number, total: number) => void;
}

export interface Pulled {
  readonly path: string;
  readonly bytes: number;
  readonly sha256: string;
  /** Whether anything came over the network. */
  readonly fresh: boolean;
}

const CHUNK = 64 * 2 ** 20;
const CONNECTIONS = 4;

/** What the other side says of a file. */
interface Remote {
  /** null for a plain address. */
  readonly commit: string | null;
  /** SHA-256, or git's SHA-1 of a small file; null where nothing is said. */
  readonly etag: string | null;
  readonly bytes: number;
  /** Where its bytes are just now. */
  readonly address: string;
}

/** Where the file is in the cache, if it is here: never touches the network. */
export function findPulled(file: RemoteFile, settings: HubSettings): string | undefined {
  return find(file, settings, new Pins(settings.home).get(keyOf(file)))?.path;
}

/** Makes the file be here and returns its path. Throws a Failure, or Stopped at the user's signal. */
export async function pullFile(
  file: RemoteFile,
  settings: HubSettings,
  net: Net,
  options: PullOptions = {},
): Promise<Pulled> {
  const pins = new Pins(settings.home);
  const pin = options.update ? undefined : pins.get(keyOf(file));
  const here = options.update ? undefined : find(file, settings, pin);
  if (here) {
    const { path, bytes } = here;
    if (pin?.bytes === bytes) return { path, bytes, sha256: pin.sha256, fresh: false };
    const sums = await checksums(path, bytes, (n) => options.onProgress?.('check', n, bytes));
    const remedy = `Run \`microdiff rm ${file.name}\`, then pull it again`;
    verify(sums, { ...here, etag: here.etag ?? null }, file, pin, path, remedy);
    await note(pins, net, file, { revision: here.commit, sha256: sums.sha256, bytes: sums.bytes });
    return { path, bytes, sha256: sums.sha256, fresh: false };
  }
  if (settings.offline) {
    throw new Failure({
      what: `${file.name} (${file.path})`,
      why: 'it is not in the cache, and HF_HUB_OFFLINE forbids to download it',
      fix: `Unset HF_HUB_OFFLINE, or copy it to ${settings.cache} from a machine that has it`,
    });
  }
  const revision = pin?.revision ?? file.revision ?? 'main';
  const remote = await retrying(net, file.name, () => inspect(file, settings, net, revision));
  checkKnown(remote, file, pin);
  const fetched = await fetchFile(file, remote, revision, settings, net, options, pin);
  await note(pins, net, file, { revision: remote.commit, sha256: fetched.sha256, bytes: fetched.bytes });
  return fetched;
}

interface Here {
  readonly path: string;
  readonly bytes: number;
  readonly commit: string | null;
  readonly etag?: string | undefined;
}

function find(file: RemoteFile, settings: HubSettings, pin: Pin | undefined): Here | undefined {
  if (file.repository === undefined) {
    const path = join(settings.torch, file.path);
    const stat = statSync(path, { throwIfNoEntry: false });
    return stat?.isFile() ? { path, bytes: stat.size, commit: null } : undefined;
  }
  const repository = new CachedRepository(settings.cache, file.repository);
  return repository.find(pin?.revision ?? file.revision ?? 'main', file.path);
}

function keyOf(file: RemoteFile): string {
  return file.url ?? `${file.repository}/${file.path}`;
}

/** A pin that cannot be written down is a pity, no reason to refuse the file. */
async function note(pins: Pins, net: Net, file: RemoteFile, pin: Pin): Promise<void> {
  try {
    await pins.set(keyOf(file), pin);
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    net.note(`${error.message} (so the checksum of ${file.path} is not pinned)`);
  }
}

async function inspect(file: RemoteFile, settings: HubSettings, net: Net, revision: string): Promise<Remote> {
  if (file.repository === undefined) return inspectUrl(file, net);
  const path = file.path.split('/').map(encodeURIComponent).join('/');
  const asked = `${settings.endpoint}/${file.repository}/resolve/${encodeURIComponent(revision)}/${path}`;
  // The hub says what a file is in the redirect to its storage, which says something else.
  let commit: string | null = null;
  const answer = await ask(net, asked, {
    method: 'HEAD',
    follow: ({ headers }, next) => {
      commit ??= headers.get('x-repo-commit');
      return !headers.has('x-linked-etag') && (next.origin === new URL(asked).origin || commit === null);
    },
  });
  const { response, url } = answer;
  const { headers } = response;
  if (response.status >= 400) checkStatus(net, answer, `${file.repository}/${file.path}`);
  answer.close();
  commit ??= headers.get('x-repo-commit');
  const etag = (headers.get('x-linked-etag') ?? headers.get('etag') ?? '')
    .replace(/^W\//, '')
    .replaceAll('"', '');
  const isRedirect = response.status >= 300;
  const size = headers.get('x-linked-size') ?? (isRedirect ? null : headers.get('content-length'));
  const isHub = commit !== null && /^[0-9a-f]{40}$/.test(commit) && size !== null && /^\d+$/.test(size);
  if (!isHub || !/^([0-9a-f]{40}|[0-9a-f]{64})$/.test(etag)) {
    throw new Failure({
      what: `${file.repository}/${file.path}`,
      why: `${url.host} does not say its commit, length and checksum as a hub does`,
      fix: 'Check HF_ENDPOINT, and whether a proxy answers in its place',
    });
  }
  const address = new URL(headers.get('location') ?? '', url.href).href;
  return { commit, etag, bytes: Number(size), address };
}

/** A plain server: the length by a range of one byte, since addresses signed for GET may refuse HEAD. */
async function inspectUrl(file: RemoteFile, net: Net): Promise<Remote> {
  const address = file.url!;
  const answer = await ask(net, address, { range: 'bytes=0-0' });
  checkStatus(net, answer, address);
  const { headers, status } = answer.response;
  answer.close();
  const size = status === 206 ? headers.get('content-range')?.split('/')[1] : headers.get('content-length');
  if (size && /^\d+$/.test(size)) return { commit: null, etag: null, bytes: Number(size), address };
  throw new Failure({ what: address, why: 'the server does not say how long the file is' });
}

/** Refuses a file whose announced checksum differs from what is known, before a byte of it comes. */
function checkKnown(remote: Remote, file: RemoteFile, pin: Pin | undefined): void {
  const announced = remote.etag?.length === 64 ? remote.etag : undefined;
  const known = file.sha256 ?? pin?.sha256;
  if (announced === undefined || known === undefined || announced === known) return;
  const source = file.sha256 ? 'the registry' : 'the first download';
  throw new Failure({
    what: `${file.name} (${file.path})`,
    why: `the hub has sha256 ${announced}, but ${source} had ${known}`,
    fix: file.sha256 ? 'Check HF_ENDPOINT' : 'Look at its page; `microdiff pull --update` takes the new one',
  });
}

/** Refuses bytes that are not those announced, known and pinned. */
function verify(
  sums: Checksums,
  remote: { readonly bytes: number; readonly etag: string | null },
  file: RemoteFile,
  pin: Pin | undefined,
  what: string,
  fix: string,
): void {
  const { etag } = remote;
  const prefix = file.sha256_prefix;
  const faults = [
    sums.bytes !== remote.bytes && `it has ${sums.bytes} bytes, announced were ${remote.bytes}`,
    etag?.length === 64 && sums.sha256 !== etag && `its sha256 is ${sums.sha256}, the hub's ${etag}`,
    etag?.length === 40 && sums.git !== etag && `its git checksum is ${sums.git}, the hub's ${etag}`,
    file.sha256 &&
      sums.sha256 !== file.sha256 &&
      `its sha256 is ${sums.sha256}, the registry's ${file.sha256}`,
    prefix && !sums.sha256.startsWith(prefix) && `its sha256 is ${sums.sha256}, its name says ${prefix}...`,
    pin &&
      sums.sha256 !== pin.sha256 &&
      `its sha256 is ${sums.sha256}, that of the first download ${pin.sha256}`,
  ];
  const why = faults.find((fault) => typeof fault === 'string' && fault !== '');
  if (why) throw new Failure({ what, why, fix });
}

/** The places of one file while it is on its way. */
interface Places {
  readonly partial: string;
  readonly done: string;
  readonly lock: string;
  /** Gives the whole file its name and returns that. */
  readonly publish: () => string;
}

function placesOf(file: RemoteFile, remote: Remote, revision: string, settings: HubSettings): Places {
  if (file.repository === undefined || remote.commit === null || remote.etag === null) {
    const done = join(settings.torch, basename(file.path));
    const lock = join(settings.torch, `.${basename(file.path)}.lock`);
    return { partial: `${done}.microdiff.incomplete`, done, lock, publish: () => done };
  }
  const { commit, etag } = remote;
  const repository = new CachedRepository(settings.cache, file.repository);
  return {
    partial: repository.partial(etag),
    done: repository.blob(etag),
    lock: repository.lock(etag),
    publish: () => repository.link(etag, commit, file.path, revision),
  };
}

async function fetchFile(
  file: RemoteFile,
  remote: Remote,
  revision: string,
  settings: HubSettings,
  net: Net,
  options: PullOptions,
  pin: Pin | undefined,
): Promise<Pulled> {
  const places = placesOf(file, remote, revision, settings);
  makeFolder(dirname(places.partial));
  makeFolder(dirname(places.lock));
  const wait = () => net.note(`${file.name}: another process is downloading it; waiting for that one`);
  const lock = await takeLock(places.lock, wait, net.signal);
  try {
    // Another process, or another snapshot with the same file, may have brought it.
    const isThere = !options.update || remote.etag !== null;
    if (isThere && statSync(places.done, { throwIfNoEntry: false })?.size === remote.bytes) {
      const sums = await checksums(places.done, remote.bytes);
      verify(sums, remote, file, pin, places.done, 'Remove it, then pull again');
      return { path: places.publish(), bytes: sums.bytes, sha256: sums.sha256, fresh: false };
    }
    const sums = await fetchChecked(file, remote, places, settings, net, options, pin);
    renameSync(places.partial, places.done);
    return { path: places.publish(), bytes: sums.bytes, sha256: sums.sha256, fresh: true };
  } catch (error) {
    throw osFailure(error, places.done, 'write');
  } finally {
    lock.release();
  }
}

/** Downloads into `places.partial` and checks it; what was resumed and proves wrong is fetched anew, once. */
async function fetchChecked(
  file: RemoteFile,
  remote: Remote,
  places: Places,
  settings: HubSettings,
  net: Net,
  options: PullOptions,
  pin: Pin | undefined,
): Promise<Checksums> {
  for (;;) {
    const partial = new PartialFile(places.partial, remote.bytes, options.chunkBytes ?? CHUNK);
    try {
      requireFreeBytes(places.partial, remote.bytes - partial.received, file.name);
      if (partial.resumed > 0) net.note(`${file.name}: going on from ${megabytes(partial.resumed)} MB`);
      await transfer(net, partial, {
        what: file.name,
        locate: locator(file, remote, settings, net),
        connections: options.connections ?? CONNECTIONS,
        onBytes: () => options.onProgress?.('download', partial.received, remote.bytes),
      });
      partial.seal();
    } finally {
      partial.close();
    }
    const sums = await checksums(places.partial, remote.bytes, (n) => {
      if (net.signal?.aborted) throw new Stopped('stopped');
      options.onProgress?.('check', n, remote.bytes);
    });
    try {
      verify(
        sums,
        remote,
        file,
        pin,
        `${file.name} (${file.path})`,
        'Pull it again, or from another hub (HF_ENDPOINT)',
      );
      return sums;
    } catch (error) {
      rmSync(places.partial, { force: true });
      if (!(error instanceof Failure) || partial.resumed === 0) throw error;
      net.note(`${error.message}. Part of it was left by an earlier download, so it is fetched anew`);
    }
  }
}

/** The address of the first answer, then a new one each time: signed addresses run out. */
function locator(file: RemoteFile, remote: Remote, settings: HubSettings, net: Net): () => Promise<string> {
  let address: string | undefined = remote.address;
  return async () => {
    const first = address;
    address = undefined;
    if (first !== undefined) return first;
    const now = await inspect(file, settings, net, remote.commit ?? 'main');
    if (now.bytes === remote.bytes && now.etag === remote.etag) return now.address;
    throw new Failure({
      what: `${file.name} (${file.path})`,
      why: 'the server has another file there than a moment ago',
      fix: 'Pull it again',
    });
  };
}

function megabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(1);
}
