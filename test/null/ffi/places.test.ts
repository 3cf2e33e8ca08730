// Where NVIDIA's libraries are looked for, in which order, and what is said when none opens.

import { expect, test } from 'bun:test';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { isAbsolute, join } from 'node:path';
import { openCublasLtLibrary } from '../../../ffi/cublaslt.ts';
import { openDriver } from '../../../ffi/cuda.ts';
import { openCudnnLibrary } from '../../../ffi/cudnn.ts';
import { LibraryMissing } from '../../../ffi/library.ts';
import { openNcclLibrary } from '../../../ffi/nccl.ts';
import { openNvrtcLibrary } from '../../../ffi/nvrtc.ts';
import { candidates, SONAMES, type Surroundings } from '../../../ffi/places.ts';

/** A machine with the given folders; the parents of a folder are there, too. */
function machine(env: Record<string, string>, paths: readonly string[], links: Record<string, string> = {}) {
  const all = new Set(
    paths.flatMap((path) => path.split('/').map((_, i, parts) => parts.slice(0, i + 1).join('/'))),
  );
  const around: Surroundings = {
    env,
    home: '/home/u',
    list: (folder) =>
      [...all]
        .filter((path) => path.startsWith(`${folder}/`) && !path.slice(folder.length + 1).includes('/'))
        .map((path) => path.slice(folder.length + 1))
        .sort(),
    real: (folder) => links[folder] ?? (all.has(folder) ? folder : null),
  };
  return around;
}

const folders = (paths: readonly string[]) => [...new Set(paths.map((path) => path.replace(/\/[^/]*$/, '')))];

test('order: named folders, the loader path, the system, toolkits, Python', () => {
  const around = machine({ MICRODIFF_CUDA_PATH: '/a:/b', LD_LIBRARY_PATH: '/ld:/gone' }, [
    '/ld',
    '/usr/lib/x86_64-linux-gnu',
    '/usr/lib/wsl/lib',
    '/usr/local/cuda-12.9/lib64',
    '/usr/local/cuda-13.0/lib64',
    '/opt/conda/lib/python3.12/site-packages/nvidia/cublas/lib',
    '/opt/conda/lib/python3.12/site-packages/nvidia/cu13/lib',
    '/home/u/.local/lib/python3.10/site-packages/nvidia/cublas/lib',
    '/usr/local/lib/python3.11/dist-packages/nvidia/cudnn/lib',
  ]);
  expect(folders(candidates('cublaslt', around))).toEqual([
    '/a',
    '/b',
    '/ld',
    '/usr/lib/x86_64-linux-gnu',
    '/usr/lib/wsl/lib',
    '/usr/lib',
    '/usr/local/lib',
    '/usr/local/cuda-13.0/lib64',
    '/usr/local/cuda-12.9/lib64',
    '/opt/conda/lib/python3.12/site-packages/nvidia/cu13/lib',
    '/opt/conda/lib/python3.12/site-packages/nvidia/cublas/lib',
    '/home/u/.local/lib/python3.10/site-packages/nvidia/cublas/lib',
    '/usr/local/lib/python3.11/dist-packages/nvidia/cudnn/lib',
  ]);
});

test('environments: VIRTUAL_ENV and CONDA_PREFIX first, then conda environments, with their lib', () => {
  const around = machine({ VIRTUAL_ENV: '/venvs/x', CONDA_PREFIX: '/c/envs/e' }, [
    '/venvs/x/lib/python3.12/site-packages/nvidia/nccl/lib',
    '/c/envs/e/conda-meta',
    '/c/envs/e/lib',
    '/opt/conda/envs/t/lib/python3.11/site-packages/nvidia/nccl/lib',
  ]);
  expect(folders(candidates('nccl', around)).slice(1)).toEqual([
    '/venvs/x/lib/python3.12/site-packages/nvidia/nccl/lib',
    '/c/envs/e/lib',
    '/opt/conda/envs/t/lib/python3.11/site-packages/nvidia/nccl/lib',
  ]);
});

test('newer sonames first; a folder counts once under all its names; nothing relative', () => {
  const around = machine(
    { MICRODIFF_CUDA_PATH: 'here:./there:', LD_LIBRARY_PATH: '.:', CUDA_HOME: 'cuda' },
    ['/usr/local/cuda/lib64', '/usr/local/cuda-13.0/lib64'],
    { '/usr/local/cuda/lib64': '/usr/local/cuda-13.0/lib64' },
  );
  const found = candidates('nvrtc', around);
  expect(found.slice(0, 2)).toEqual([
    '/usr/lib/x86_64-linux-gnu/libnvrtc.so.13',
    '/usr/lib/x86_64-linux-gnu/libnvrtc.so.12',
  ]);
  expect(found.filter((path) => path.startsWith('/usr/local/cuda'))).toHaveLength(2);
  expect(found.every((path) => isAbsolute(path))).toBe(true);
});

test("the driver's library is not looked for in Python's folders", () => {
  const around = machine({}, ['/opt/conda/lib/python3.12/site-packages/nvidia/cuda/lib']);
  expect(candidates('driver', around)).toEqual(['/usr/lib/x86_64-linux-gnu/libcuda.so.1']);
});

const OPENERS = {
  driver: openDriver,
  cublaslt: openCublasLtLibrary,
  cudnn: openCudnnLibrary,
  nccl: openNcclLibrary,
  nvrtc: openNvrtcLibrary,
};

test.each(Object.entries(OPENERS))(
  '%s: nothing there is exit code 3, a reason, and what to do',
  (_, open) => {
    const error = missing(() => open(['/no/such/lib.so.1', '/nor/here/lib.so.1'], (path) => `${path}: gone`));
    expect(error.code).toBe(3);
    expect(error.message).toMatch(
      /^cannot load .*: \/no\/such\/lib\.so\.1: gone; \/nor\/here\/lib\.so\.1: gone\. (Install|In) ?/,
    );
    expect(error.tried).toHaveLength(2);
  },
);

test('with many places, files that are there keep their reasons and the others are counted', () => {
  const folder = mkdtempSync(join(tmpdir(), 'places-'));
  try {
    const broken = join(folder, 'libcublasLt.so.12');
    writeFileSync(broken, 'not a library');
    const paths = [...Array.from({ length: 5 }, (_, i) => `/no/${i}/libcublasLt.so.13`), broken];
    const error = missing(() => openCublasLtLibrary(paths, (path) => `${path}: file too short`));
    expect(error.message).toContain(`${broken}: file too short; 5 places without it, /no/0/`);
    expect(error.tried.map(({ path }) => path)).toEqual(paths);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('a library without the functions: the missing symbol is named', () => {
  const libc = ['/lib/x86_64-linux-gnu/libc.so.6', '/lib64/libc.so.6', '/usr/lib/libc.so.6'];
  const error = missing(() => openDriver(libc.slice(0, 1), () => ''));
  expect(error.message).toMatch(/cuInit|No such file|cannot open/);
});

test('every library has names', () => {
  expect(Object.values(SONAMES).every((names) => names.length > 0)).toBe(true);
});

function missing(action: () => unknown): LibraryMissing {
  try {
    action();
  } catch (error) {
    if (error instanceof LibraryMissing) return error;
    throw error;
  }
  throw new Error('it opened');
}
