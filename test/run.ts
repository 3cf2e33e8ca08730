// Runs the tests: every file in a process of its own, so that a crash names its file and loses no count.
//
//   bun test/run.ts null cpu        the folders test/null and test/cpu
//
// Prints a line a file, all output of a file that failed, what was skipped and why, then the sum. The sum
// is also left in build/counts/, where .ci/run finds it; a run that dies leaves none and so counts as failed.
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { basename, join } from 'node:path';
import { CHROMIUM } from './browser/page.ts';

interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}

/** Why a tier of tests cannot run on this machine, or null when it can. */
const MISSING: Record<string, () => string | null> = {
  null: () => null,
  cpu: () => null, // the Makefile builds the library first: its absence is a failure, not a skip
  sim: () => (existsSync('test/sim') ? null : 'it comes with the CUDA path'),
  gpu: () =>
    existsSync('/dev/nvidiactl') ? (existsSync('test/gpu') ? null : 'none yet') : 'no NVIDIA GPU here',
  browser: () => (CHROMIUM ? null : 'no Chromium here'),
  alone: () => null, // the executable: .ci/run builds it first
};

const TEST_SECONDS = 300; // one test
const FILE_SECONDS = 1200; // one file

/** Runs one file. A file that ends badly has at least one failure, whatever its report says. */
async function runFile(file: string): Promise<Counts> {
  const report = join('build', 'reports', `${file.replaceAll('/', '-')}.xml`);
  rmSync(report, { force: true });
  const started = performance.now();
  const child = Bun.spawn(
    [
      process.execPath,
      'test',
      `./${file}`,
      `--timeout=${TEST_SECONDS * 1000}`,
      '--reporter=junit',
      `--reporter-outfile=${report}`,
    ],
    { stdin: 'ignore', stdout: 'pipe', stderr: 'pipe', timeout: FILE_SECONDS * 1000 },
  );
  const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  const counts = readReport(report);
  const good = child.exitCode === 0 && counts.failed === 0 && counts.passed + counts.skipped > 0;
  if (!good && counts.failed === 0) counts.failed = 1;
  const numbers = `${counts.passed} passed${counts.failed ? `, ${counts.failed} failed` : ''}`;
  const skips = counts.skipped ? `, ${counts.skipped} skipped` : '';
  console.log(`${good ? '✓' : '✗'} ${file}  ${numbers}${skips}  ${seconds} s`);
  if (!good) console.log(`${out}${err}${ending(child, counts)}`);
  return counts;
}

/** The last words on a file that failed: how its process ended. */
function ending(child: Bun.Subprocess, counts: Counts): string {
  if (child.signalCode) return `-- ended by ${child.signalCode}\n`;
  return `-- exit code ${child.exitCode}${counts.passed + counts.failed === 0 ? ', no test ran' : ''}\n`;
}

/** The counts on the root element of a JUnit report; all zero when there is no report. */
function readReport(path: string): Counts {
  if (!existsSync(path)) return { passed: 0, failed: 0, skipped: 0 };
  const root = /<testsuites[^>]*>/.exec(readFileSync(path, 'utf8'))?.[0] ?? '';
  const attribute = (name: string) => Number(new RegExp(` ${name}="(\\d+)"`).exec(root)?.[1] ?? 0);
  const failed = attribute('failures') + attribute('errors');
  const skipped = attribute('skipped');
  return { passed: attribute('tests') - failed - skipped, failed, skipped };
}

const tiers = process.argv.slice(2);
mkdirSync('build/reports', { recursive: true });
mkdirSync('build/counts', { recursive: true });
const countsFile = join('build', 'counts', tiers.join('-'));
rmSync(countsFile, { force: true });

const skips: string[] = [];
const files: string[] = [];
for (const tier of tiers) {
  const why = MISSING[tier] ? MISSING[tier]() : 'no such tier';
  if (why) skips.push(`test/${tier} (${why})`);
  else files.push(...[...new Bun.Glob(`test/${tier}/**/*.test.ts`).scanSync('.')].sort());
}

const sum: Counts = { passed: 0, failed: 0, skipped: 0 };
const failures: string[] = [];
const queue = files.values();
async function work(): Promise<void> {
  for (const file of queue) {
    const counts = await runFile(file);
    sum.passed += counts.passed;
    sum.failed += counts.failed;
    sum.skipped += counts.skipped;
    if (counts.failed) failures.push(file);
  }
}
await Promise.all(Array.from({ length: availableParallelism() }, work));

if (failures.length) console.log(`failed: ${failures.map((file) => basename(file)).join(', ')}`);
if (skips.length) console.log(`skipped: ${skips.join(', ')}`);
console.log(`${sum.passed} passed, ${sum.failed} failed, ${sum.skipped} skipped`);
writeFileSync(countsFile, `${sum.passed} ${sum.failed} ${sum.skipped}\n`);
process.exitCode = sum.failed || sum.passed === 0 ? 1 : 0;
