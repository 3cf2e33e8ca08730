// The program as a child process in a folder of its own, for the tests of training.
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const MAIN = join(import.meta.dir, '../../../src/cli/main.ts');

export interface Ended {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** A folder that is removed at the end of the test run, and the program started in it. */
export class Place {
  readonly folder = mkdtempSync(join(tmpdir(), 'microdiff-train-'));

  at(...names: string[]): string {
    return join(this.folder, ...names);
  }

  read(...names: string[]): string {
    return readFileSync(this.at(...names), 'utf8');
  }

  /** Starts the program and does not wait. */
  start(args: readonly string[], env: Record<string, string> = {}) {
    return Bun.spawn([process.execPath, MAIN, ...args, '--threads', '1'], {
      cwd: this.folder,
      env: { ...process.env, FORCE_COLOR: '', MICRODIFF_DEVICE: 'cpu', ...env },
      stdin: 'ignore',
      stdout: 'pipe',
      stderr: 'pipe',
    });
  }

  async run(args: readonly string[], env: Record<string, string> = {}): Promise<Ended> {
    return ended(this.start(args, env));
  }

  /** Files below a folder with their bytes, as hashes. */
  hashes(...names: string[]): Record<string, string> {
    const files = readdirSync(this.at(...names), { recursive: true, withFileTypes: true });
    const paths = files.filter((f) => f.isFile()).map((f) => join(f.parentPath, f.name));
    const hash = (path: string) => Bun.SHA256.hash(readFileSync(path), 'hex');
    return Object.fromEntries(
      paths.sort().map((path) => [path.slice(this.at(...names).length + 1), hash(path)]),
    );
  }

  /** Lines of metrics.jsonl without what depends on the speed of the machine. */
  metrics(run: string): Record<string, unknown>[] {
    const lines = this.read(run, 'metrics.jsonl').trimEnd().split('\n');
    return lines.map((line) => {
      const { seconds: _, images_per_s: __, ...rest } = JSON.parse(line);
      return rest;
    });
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

type Child = ReturnType<Place['start']>;

/** Waits for the end of a child. */
export async function ended(child: Child): Promise<Ended> {
  const [out, err] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  return { code: child.exitCode ?? -1, out, err };
}

/** Waits until something is there; fails when the child ends before. */
export async function until(child: Child, there: () => boolean): Promise<void> {
  while (!there()) {
    if (child.exitCode !== null) throw new Error(`ended too early: ${await child.stderr.text()}`);
    await Bun.sleep(2);
  }
}
