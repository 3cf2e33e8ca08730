// The steps of check.sh, one after the other, each in processes of its own, so that a crash ends a step and
// no more. From a pack this file runs bundled, beside the bundled program and tests.
//
//   bun test/gpu/check.ts [--out FOLDER] [step ...]
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

const PACKED = import.meta.path.endsWith('.js');
const ROOT = resolve(import.meta.dir, '../..');
const place = (path: string) => join(ROOT, PACKED ? path.replace(/\.ts$/, '.js') : path);
const MICRODIFF = [process.execPath, place('src/cli/main.ts')];
const GOLDENS = join(ROOT, 'test/goldens');
const RUNNER = join(ROOT, PACKED ? 'runner' : 'build/gpu/runner');
const PRECISIONS = ['fp32', 'bf16'] as const;
const STEP_SECONDS = 540;

interface Outcome {
  /** What was done, in a few words. */
  readonly name: string;
  readonly result: 'pass' | 'fail' | 'skipped';
  readonly note: string;
  readonly seconds: number;
  /** What the command reported, as it is. */
  readonly data?: unknown;
}

interface Ran {
  readonly code: number;
  readonly out: string;
  readonly err: string;
  readonly seconds: number;
}

const outcomes: Outcome[] = [];
let folder = 'build/gpu-check';

/** Runs a command; its output lies in FOLDER/NAME.log. 124 stands for one that ran out of time. */
function run(name: string, command: readonly string[], env: Record<string, string> = {}): Ran {
  const started = performance.now();
  const child = Bun.spawnSync([...command], {
    env: { ...process.env, ...env },
    stdin: 'ignore',
    timeout: STEP_SECONDS * 1000,
  });
  const seconds = (performance.now() - started) / 1000;
  const [out, err] = [child.stdout.toString(), child.stderr.toString()];
  const log = `$ ${command.join(' ')}\n${out}${err}-- exit code ${child.exitCode}\n`;
  writeFileSync(join(folder, `${name.replaceAll(/[^\w.-]+/g, '-')}.log`), log);
  return { code: child.exitCode ?? 124, out, err, seconds };
}

function record(name: string, ran: Ran, result: Outcome['result'], note = '', data?: unknown): void {
  const outcome = { name, result, note, seconds: Math.round(ran.seconds * 10) / 10 };
  outcomes.push(data === undefined ? outcome : { ...outcome, data });
  console.error(`${result.padEnd(8)} ${name}  ${note}`);
}

function skip(name: string, why: string): void {
  record(name, { code: 0, out: '', err: '', seconds: 0 }, 'skipped', why);
}

/** The last line of the errors: what a user would read. */
const lastWords = ({ err, out, code }: Ran) =>
  `exit code ${code}: ${(err.trim() || out.trim()).split('\n').at(-1) ?? ''}`.slice(0, 300);

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Runs a command that prints one JSON; passes when it exits with 0. */
function jsonStep(
  name: string,
  command: readonly string[],
  note: (data: never) => string,
  env: Record<string, string> = {},
): Ran {
  const ran = run(name, command, env);
  const data = parsed(ran.out);
  const good = ran.code === 0 && data !== undefined;
  record(name, ran, good ? 'pass' : 'fail', good ? note(data as never) : lastWords(ran), data);
  return ran;
}

function doctor(): void {
  jsonStep('doctor', [...MICRODIFF, 'doctor', '--json'], () => '');
}

/** Every op against the CPU. */
function kernels(): void {
  const report = join(folder, 'kernels.json');
  rmSync(report, { force: true });
  const test = place('test/gpu/kernels.test.ts');
  const ran = run('kernels', [process.execPath, 'test', test, '--timeout=300000'], {
    MICRODIFF_TEST_REPORT: report,
  });
  const count = (word: string) => Number(new RegExp(`^ *(\\d+) ${word}$`, 'm').exec(ran.err)?.[1] ?? 0);
  const [passed, failed] = [count('pass'), count('fail')];
  const good = ran.code === 0 && failed === 0 && passed > 0;
  const note = passed + failed > 0 ? `${passed} passed, ${failed} failed` : lastWords(ran);
  const data = existsSync(report) ? parsed(readFileSync(report, 'utf8')) : undefined;
  record('kernels', ran, good ? 'pass' : 'fail', note, data);
}

/** The network; where a pack has them, text tower, and autoencoder with and without cuDNN. */
function goldens(): void {
  for (const precision of PRECISIONS) {
    goldensOf('microdit', `goldens ${precision}`, precision);
    goldensOf('clip-text', `clip-text ${precision}`, precision);
    for (const way of ['auto', 'im2col']) goldensOf('vae', `vae ${precision} ${way}`, precision, way);
  }
}

function goldensOf(part: string, name: string, precision: string, convolutions = 'auto'): void {
  const dir = join(GOLDENS, part);
  if (!existsSync(dir)) {
    skip(name, 'its files are not here');
    return;
  }
  const command = [...MICRODIFF, 'verify', dir, '--device', 'cuda', '--precision', precision, '--json'];
  const passed = (data: { groups: readonly { status: string }[] }) =>
    `${data.groups.filter(({ status }) => status === 'pass').length} groups`;
  jsonStep(name, command, passed, { MICRODIFF_CONVOLUTIONS: convolutions });
}

/** Trains a small model: with graphs, again, and without; all three give the same files to the bit. */
function graph(): void {
  for (const precision of PRECISIONS) {
    const ways: readonly (readonly [string, readonly string[]])[] = [
      ['graph', []],
      ['again', []],
      ['eager', ['--no-graph']],
    ];
    const runs = ways.map(([way, flags]) => {
      const name = `graph ${precision} ${way}`;
      const into = join(folder, name.replaceAll(' ', '-'));
      rmSync(into, { recursive: true, force: true });
      const ran = run(name, [...trainCommand(into, 6, precision), ...flags]);
      return { way, ran, files: ran.code === 0 ? weightsIn(into) : null };
    });
    const [first] = runs;
    const broken = runs.find(({ files }) => files === null);
    const different = runs.filter(({ files }) => !Bun.deepEquals(files, first!.files)).map(({ way }) => way);
    const good = !broken && different.length === 0;
    const words = good ? 'equal to the bit: graph, again, eager' : `differ from the first: ${different}`;
    record(`graph ${precision}`, first!.ran, good ? 'pass' : 'fail', broken ? lastWords(broken.ran) : words);
  }
}

function trainCommand(into: string, steps: number, precision: string): string[] {
  const quiet = ['--set', 'train.preview_every=0', '--set', 'train.checkpoint_every=0'];
  const where = ['--device', 'cuda', '--precision', precision];
  return [...MICRODIFF, 'train', 'tiny', '--steps', String(steps), ...quiet, ...where, '-o', into];
}

/** Hashes of all tensors files below a run folder, by their path in it. */
function weightsIn(run: string): Record<string, string> {
  const files = (readdirSync(run, { recursive: true }) as string[]).filter((p) => p.endsWith('.safetensors'));
  const hash = (path: string) => new Bun.CryptoHasher('sha256').update(readFileSync(path)).digest('hex');
  return Object.fromEntries(files.sort().map((path) => [path, hash(join(run, path))]));
}

const TOOLS = ['memcheck', 'racecheck', 'initcheck', 'synccheck'] as const;

/** compute-sanitizer on training, and on a plan that a small C program replays: it may not manage Bun. */
function sanitizer(): void {
  const program = sanitizerProgram();
  const plan = join(folder, 'plan');
  const dump = run('dump', [process.execPath, place('test/gpu/dump.ts'), plan]);
  if (dump.code !== 0 || !existsSync(RUNNER)) {
    record('runner', dump, 'fail', dump.code === 0 ? `${RUNNER} is missing` : lastWords(dump));
    return;
  }
  const plain = run('runner', [RUNNER, plan]);
  record('runner', plain, plain.code === 0 ? 'pass' : 'fail', plain.code ? lastWords(plain) : '');
  if (!program) {
    skip('sanitizer', 'compute-sanitizer is not here');
    return;
  }
  for (const tool of TOOLS) {
    const checked = [program, '--tool', tool, '--error-exitcode', '9'];
    sanitized(`sanitizer runner ${tool}`, [...checked, RUNNER, plan]);
    const into = join(folder, `sanitizer-${tool}`);
    rmSync(into, { recursive: true, force: true });
    const train = trainCommand(into, 2, 'bf16');
    sanitized(`sanitizer train ${tool}`, [...checked, '--target-processes', 'all', ...train]);
  }
}

function sanitized(name: string, command: readonly string[]): void {
  const ran = run(name, command);
  const summary = /ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard/.exec(ran.out + ran.err);
  const found = Number(summary?.[1] ?? summary?.[2] ?? Number.NaN);
  // Without a summary the tool did not get as far as to judge: that says nothing about the kernels.
  if (!summary) record(name, ran, 'skipped', `the tool did not manage it: ${lastWords(ran)}`);
  else record(name, ran, found === 0 && ran.code === 0 ? 'pass' : 'fail', summary[0]);
}

function sanitizerProgram(): string | null {
  const toolkits = ['/usr/local/cuda', process.env.CUDA_HOME ?? ''].filter((path) => path !== '');
  const paths = toolkits.map((path) => join(path, 'bin/compute-sanitizer'));
  return Bun.which('compute-sanitizer') ?? paths.find((path) => existsSync(path)) ?? null;
}

/** Latent size, mask ratio and micro-batches to try of each stage of MicroDiT's training, largest first. */
const STAGES = [
  ['256/0.75', 32, 0.75, [256, 128, 64]],
  ['256/0', 32, 0, [128, 64, 32]],
  ['512/0.75', 64, 0.75, [64, 32, 16]],
  ['512/0', 64, 0, [32, 16, 8]],
] as const;

/** 256 images an update, the median of 20 updates. */
function bench(): void {
  for (const [stage, latent, mask, microBatches] of STAGES) {
    for (const micro of microBatches) {
      const size = ['--latent', String(latent), '--mask', String(mask), '--batch', '256'];
      const set = ['--set', `train.micro_batch=${micro}`, '--repeats', '20', '--device', 'cuda', '--json'];
      const command = [...MICRODIFF, 'bench', 'train', '--preset', 'MicroDiT_XL_2', ...size, ...set];
      const name = `bench ${stage} micro-batch ${micro}`;
      const ran = run(name, command);
      const data = parsed(ran.out) as { images_per_s?: number; mfu?: number } | undefined;
      const short = /no memory|OUT_OF_MEMORY/i.test(ran.err);
      if (short && micro !== microBatches.at(-1)) continue;
      const rate = `${data?.images_per_s?.toFixed(1)} images/s, MFU ${data?.mfu?.toFixed(3) ?? 'unknown'}`;
      record(name, ran, ran.code === 0 && data ? 'pass' : 'fail', ran.code ? lastWords(ran) : rate, data);
      break;
    }
  }
}

/** The same in PyTorch, where it is here. */
function peer(): void {
  const script = join(ROOT, 'bench/peer_torch.py');
  const has = run('torch', ['python3', '-c', 'import torch; assert torch.cuda.is_available()']);
  if (has.code !== 0) {
    skip('peer', 'python3 with PyTorch for CUDA is not here');
    return;
  }
  for (const [stage] of STAGES) {
    for (const which of ['reference', 'fast']) {
      jsonStep(
        `peer ${which} ${stage}`,
        ['python3', script, '--peer', which, '--stage', stage],
        (data: { results: readonly { images_per_s?: number; micro_batch: number }[] }) => {
          const { images_per_s: rate, micro_batch: micro } = data.results[0]!;
          return `${rate?.toFixed(1) ?? 'no'} images/s, micro-batch ${micro}`;
        },
      );
    }
  }
}

const STEPS = { doctor, kernels, goldens, graph, sanitizer, bench, peer };
type Step = keyof typeof STEPS;

/** Name and steps of a wrong call, or null. */
function readArguments(words: readonly string[]): Step[] | null {
  const named: Step[] = [];
  for (let i = 0; i < words.length; i++) {
    const word = words[i]!;
    if (word === '--out' && words[i + 1]) folder = words[++i]!;
    else if (Object.hasOwn(STEPS, word)) named.push(word as Step);
    else return null;
  }
  return named.length > 0 ? named : (Object.keys(STEPS) as Step[]);
}

const steps = readArguments(process.argv.slice(2));
if (steps === null) {
  console.error(`gpu-check: usage: check.sh [--out FOLDER] [${Object.keys(STEPS).join('] [')}]`);
  process.exit(2);
}
folder = resolve(folder);
mkdirSync(folder, { recursive: true });
for (const step of steps) STEPS[step]();

const count = (result: Outcome['result']) => outcomes.filter((each) => each.result === result).length;
const sums = { passed: count('pass'), failed: count('fail'), skipped: count('skipped') };
const file = join(folder, 'gpu-check.json');
writeFileSync(file, `${JSON.stringify({ date: new Date().toISOString(), ...sums, outcomes })}\n`);
for (const { name, result, seconds, note } of outcomes) {
  console.log(`${result.padEnd(8)} ${`${seconds.toFixed(1)} s`.padStart(9)}  ${name.padEnd(30)} ${note}`);
}
console.log(`${sums.passed} passed, ${sums.failed} failed, ${sums.skipped} skipped; ${file}`);
process.exitCode = sums.failed > 0 || sums.passed === 0 ? 1 : 0;
