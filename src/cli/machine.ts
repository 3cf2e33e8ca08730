// Facts on this machine, read from the system: processor, memory, folders, graphics cards.

import {
  accessSync,
  constants,
  existsSync,
  readdirSync,
  readFileSync,
  realpathSync,
  statfsSync,
} from 'node:fs';
import { availableParallelism, cpus, totalmem } from 'node:os';
import { resolve } from 'node:path';

export interface Folder {
  readonly path: string;
  readonly freeBytes: number;
  readonly writable: boolean;
  /** Files in it may be executed, and libraries loaded: it is not mounted noexec. */
  readonly executable: boolean;
}

export interface Gpus {
  /** Model names, as the NVIDIA driver gives them. */
  readonly names: readonly string[];
  /** Version line of the driver; undefined without a driver. */
  readonly driver: string | undefined;
}

/** Model name and number of processors that this process may use. */
export function processor(): { model: string; cores: number } {
  return { model: cpus()[0]?.model.trim() ?? 'unknown', cores: availableParallelism() };
}

/** Memory in bytes, with the limit of the container where there is one. */
export function memory(): { total: number; available: number } {
  const info = read('/proc/meminfo');
  const kilobytes = Number(/^MemAvailable:\s+(\d+) kB/m.exec(info)?.[1]);
  const available = Number.isFinite(kilobytes) ? kilobytes * 1024 : totalmem();
  const limit = Number(read('/sys/fs/cgroup/memory.max').trim() || Number.NaN);
  const used = Number(read('/sys/fs/cgroup/memory.current').trim() || Number.NaN);
  if (!Number.isFinite(limit) || limit >= totalmem()) return { total: totalmem(), available };
  return { total: limit, available: Math.min(available, Number.isFinite(used) ? limit - used : limit) };
}

/** What can be done in a folder. A folder that is not there has no free space and is not writable. */
export function folder(path: string): Folder {
  const whole = existsSync(path) ? realpathSync(path) : resolve(path);
  let freeBytes = 0;
  let writable = false;
  try {
    const { bavail, bsize } = statfsSync(whole);
    freeBytes = bavail * bsize;
    accessSync(whole, constants.W_OK);
    writable = true;
  } catch {
    writable = false;
  }
  const options = mountOptions(whole, read('/proc/self/mounts'));
  return {
    path: whole,
    freeBytes,
    writable: writable && !options.has('ro'),
    executable: !options.has('noexec'),
  };
}

/** Options of the mount that holds `path`: the longest mount point on the way to it, the last of equals. */
export function mountOptions(path: string, mounts: string): ReadonlySet<string> {
  let best = '';
  let found = '';
  for (const line of mounts.split('\n')) {
    const [, written = '', , options = ''] = line.split(' ');
    const point = written.replace(/\\([0-7]{3})/g, (_, octal) =>
      String.fromCharCode(Number.parseInt(octal, 8)),
    );
    const inside = point === '/' || path === point || path.startsWith(`${point}/`);
    if (point !== '' && inside && point.length >= best.length) {
      best = point;
      found = options;
    }
  }
  return new Set(found.split(','));
}

/** NVIDIA cards that the driver shows in /proc. */
export function gpus(root = '/proc/driver/nvidia'): Gpus {
  const driver = /NVRM version:\s*(.+)/.exec(read(`${root}/version`))?.[1]?.trim();
  const cards = existsSync(`${root}/gpus`) ? readdirSync(`${root}/gpus`) : [];
  const names = cards.map(
    (card) => /^Model:\s*(.+)$/m.exec(read(`${root}/gpus/${card}/information`))?.[1] ?? card,
  );
  return { names: names.map((name) => name.trim()), driver };
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
