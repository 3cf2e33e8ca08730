// Command: what this machine has, what is used of it, what is missing and what mends it.

import { tmpdir } from 'node:os';
import { EXIT } from '../io/failure.ts';
import { command } from './command.ts';
import { convolutionWay } from './device.ts';
import { examineGpu, gpuRows, isUsable } from './doctor-gpu.ts';
import { SHARED } from './flags.ts';
import { type Folder, folder, memory, processor } from './machine.ts';
import { stdout } from './stdout.ts';
import { builtFrom, cpuFlags, instructionSet, version } from './version.ts';

const FEATURES = [
  'avx2',
  'fma',
  'f16c',
  'bmi2',
  'avx512f',
  'avx512_bf16',
  'avx512_vnni',
  'amx_bf16',
  'amx_tile',
];
const GIB = 2 ** 30;
/** Below this a checkpoint of the shipped model with its optimizer may not fit. */
const LEAST_FREE = 0.25 * GIB;

export const doctor = command({
  name: 'doctor',
  summary: 'Shows what this machine has, what is used of it, and what is missing',
  flags: { json: SHARED.json },
  examples: [
    ['microdiff doctor', 'a page to read'],
    ['microdiff doctor --json', 'the same for programs'],
  ],
  async run({ values }) {
    const report = await examine();
    stdout.write(values.json ? `${JSON.stringify(report)}\n` : page(report));
    return report.library.path === null ? EXIT.missing : 0;
  },
});

type Report = Awaited<ReturnType<typeof examine>>;

/** Everything that doctor knows; sizes in bytes. */
async function examine() {
  const flags = cpuFlags();
  const temporary = folder(tmpdir());
  const here = folder(process.cwd());
  const library = await openLibrary();
  const gpu = await examineGpu();
  // One line each: what, why, and what mends it.
  const problems: string[] = [
    ...(library.error === null ? [] : [library.error]),
    ...folderProblems(temporary, 'Set TMPDIR to another folder', true),
    ...folderProblems(here, 'Change to a folder of yours, or name one with -o', false),
  ];
  return {
    microdiff: { version, commit: builtFrom, bun: Bun.version },
    cpu: { ...processor(), isa: instructionSet(flags), features: FEATURES.filter((flag) => flags.has(flag)) },
    memory: memory(),
    library,
    temporary,
    folder: here,
    gpu: { ...gpu, used: isUsable(gpu) },
    problems,
  };
}

interface LibraryReport {
  readonly path: string | null;
  readonly isa: string | null;
  readonly threads: number | null;
  readonly blas: string | null;
  readonly error: string | null;
}

async function openLibrary(): Promise<LibraryReport> {
  try {
    const { openNative } = await import('../../ffi/native.ts');
    const native = await openNative();
    native.init();
    const { path, threads, blasCore } = native;
    return { path, isa: `x86-64-v${native.isa}`, threads, blas: blasCore, error: null };
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    return { path: null, isa: null, threads: null, blas: null, error: why };
  }
}

function folderProblems(at: Folder, fix: string, holdsLibrary: boolean): string[] {
  if (!at.writable) return [`${at.path}: cannot be written. ${fix}`];
  if (at.freeBytes < LEAST_FREE) return [`${at.path}: only ${gib(at.freeBytes)} free. ${fix}`];
  if (at.executable || !holdsLibrary) return [];
  return [`${at.path}: mounted noexec, so that the native library cannot be loaded from it. ${fix}`];
}

function page(report: Report): string {
  const { cpu, library, gpu, temporary, folder: here } = report;
  const features = cpu.features.length > 0 ? cpu.features.join(' ') : 'none of those that are used';
  const rows = [
    ['microdiff', `${report.microdiff.version} (${report.microdiff.commit}, Bun ${report.microdiff.bun})`],
    ['processor', `${cpu.model}, ${cpu.cores} ${cpu.cores === 1 ? 'core' : 'cores'}, ${cpu.isa}`],
    ['features', features],
    ['memory', `${gib(report.memory.available)} free of ${gib(report.memory.total)}`],
    ['library', library.path ?? 'not loaded'],
    ...(library.path === null
      ? []
      : [['', `${library.isa} kernels, ${library.threads} threads, OpenBLAS ${library.blas}`]]),
    ['temporary', folderWords(temporary)],
    ['here', folderWords(here)],
    ...gpuRows(gpu, convolutionWay()),
    ['device', library.path === null ? 'none can be used' : gpu.used ? 'cuda:0' : 'cpu'],
  ];
  const problems = report.problems.map((problem) => `missing    ${problem}`);
  return `${[...rows.map(([name, text]) => `${name!.padEnd(11)}${text}`), ...problems].join('\n')}\n`;
}

function folderWords({ path, freeBytes, writable, executable }: Folder): string {
  return `${path}, ${gib(freeBytes)} free${writable ? '' : ', not writable'}${executable ? '' : ', noexec'}`;
}

function gib(bytes: number): string {
  return `${(bytes / GIB).toFixed(1)} GiB`;
}
