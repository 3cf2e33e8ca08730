// Where NVIDIA's libraries may lie: candidates for each, best first, as absolute paths. The driver's library
// comes with the driver; the others with a toolkit, a container image or Python packages.

import { readdirSync, realpathSync, statSync } from 'node:fs';
import { homedir } from 'node:os';
import { delimiter, isAbsolute, join } from 'node:path';
import { openNative } from './native.ts';

export type GpuLibrary = 'driver' | 'cublaslt' | 'cudnn' | 'nccl' | 'nvrtc';

/** Names to look for, newest release first. */
export const SONAMES: Readonly<Record<GpuLibrary, readonly string[]>> = {
  driver: ['libcuda.so.1'],
  cublaslt: ['libcublasLt.so.13', 'libcublasLt.so.12'],
  cudnn: ['libcudnn.so.9'],
  nccl: ['libnccl.so.2'],
  nvrtc: ['libnvrtc.so.13', 'libnvrtc.so.12'],
};

const SYSTEM = [
  '/usr/lib/x86_64-linux-gnu',
  '/usr/lib64',
  '/usr/lib/wsl/lib',
  '/usr/lib',
  '/usr/local/nvidia/lib64',
  '/usr/local/lib',
  '/run/opengl-driver/lib',
];

/** What the search depends on; tests give their own. */
export interface Surroundings {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly home: string;
  /** Names in a folder, sorted; empty where there is none. */
  list(folder: string): readonly string[];
  /** Where a folder really is, past symbolic links; null where there is none. */
  real(folder: string): string | null;
}

const HERE: Surroundings = {
  env: process.env,
  home: homedir(),
  list: (folder) => {
    try {
      return readdirSync(folder).sort();
    } catch {
      return [];
    }
  },
  real: (folder) => {
    try {
      return statSync(folder).isDirectory() ? realpathSync(folder) : null;
    } catch {
      return null;
    }
  },
};

/**
 * Candidates for a library: folders of MICRODIFF_CUDA_PATH, of LD_LIBRARY_PATH, of the system, of toolkits,
 * and of Python's packages. In a folder newer sonames come first. Folders that do not exist are left out,
 * as are second names of one folder, but for the first system folder and those of MICRODIFF_CUDA_PATH, so
 * that an error can name a place.
 */
export function candidates(library: GpuLibrary, around: Surroundings = HERE): string[] {
  const chosen = folders(around.env.MICRODIFF_CUDA_PATH);
  const likely = [
    ...folders(around.env.LD_LIBRARY_PATH),
    ...SYSTEM,
    ...toolkits(around),
    ...(library === 'driver' ? [] : pythonFolders(around)),
  ];
  const seen = new Set<string>();
  const all = [...chosen, ...likely].filter((folder) => {
    const named = folder === SYSTEM[0] || chosen.includes(folder);
    const place = around.real(folder) ?? (named ? folder : null);
    if (place === null || seen.has(place)) return false;
    seen.add(place);
    return true;
  });
  return all.flatMap((folder) => SONAMES[library].map((name) => join(folder, name)));
}

/** Absolute folders of a colon-separated list; a relative one could load a file of the current folder. */
function folders(list: string | undefined): string[] {
  return (list ?? '').split(delimiter).filter((folder) => isAbsolute(folder));
}

/** Library folders of CUDA toolkits in /usr/local and /opt, newest first, and of CUDA_HOME. */
function toolkits(around: Surroundings): string[] {
  const installed = ['/usr/local', '/opt'].flatMap((parent) =>
    around
      .list(parent)
      .filter((name) => /^cuda(-[\d.]+)?$/.test(name))
      .sort((a, b) => b.localeCompare(a, 'en', { numeric: true }))
      .map((name) => join(parent, name)),
  );
  const named = [...folders(around.env.CUDA_HOME), ...folders(around.env.CUDA_PATH)];
  return [...named, ...installed].flatMap((home) => [
    join(home, 'lib64'),
    join(home, 'targets/x86_64-linux/lib'),
    join(home, 'lib'),
    join(home, 'compat'),
  ]);
}

/** `nvidia/<package>/lib` in the site-packages of every Python installation that is likely to be there. */
function pythonFolders(around: Surroundings): string[] {
  const { env, home } = around;
  const environments = [
    ...folders(env.VIRTUAL_ENV),
    ...folders(env.CONDA_PREFIX),
    ...['.venv', 'venv'].map((name) => join(home, name)),
    ...['miniconda3', 'anaconda3', 'miniforge3', 'mambaforge'].map((name) => join(home, name)),
    ...['/opt/conda', '/opt/venv', '/opt/miniconda3', '/venv', '/workspace/venv', '/workspace/.venv'],
    ...around.list('/opt').map((name) => join('/opt', name)),
    join(home, '.local'),
    '/usr/local',
    '/usr',
  ];
  const condas = environments.flatMap((root) =>
    around.list(join(root, 'envs')).map((n) => join(root, 'envs', n)),
  );
  return [...new Set([...environments, ...condas])].flatMap((root) => [
    ...(around.real(join(root, 'conda-meta')) ? [join(root, 'lib')] : []),
    ...['lib', 'lib64'].flatMap((lib) =>
      around
        .list(join(root, lib))
        .filter((name) => /^python3/.test(name))
        .flatMap((python) =>
          ['site-packages', 'dist-packages'].flatMap((packages) =>
            nvidiaFolders(join(root, lib, python, packages, 'nvidia'), around),
          ),
        ),
    ),
  ]);
}

/** cu13 holds the libraries of CUDA 13, the other packages one library each. */
function nvidiaFolders(nvidia: string, around: Surroundings): string[] {
  const packages = around.list(nvidia);
  const newest = packages.filter((name) => /^cu\d+$/.test(name)).reverse();
  return [...newest, ...packages.filter((name) => !newest.includes(name))].map((name) =>
    join(nvidia, name, 'lib'),
  );
}

/** The loader's own words about a path, from the native library; undefined where that cannot be opened. */
export async function loaderReason(): Promise<((path: string) => string) | undefined> {
  try {
    const native = await openNative();
    return (path) => native.dlopenReason(path);
  } catch {
    return undefined;
  }
}
