// Files and folders that are there or not: kills at random moments, full disks, folders that cannot be
// written.

import { afterAll, beforeEach, describe, expect, test } from 'bun:test';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  cleanLeftovers,
  freeBytes,
  makeFolder,
  readLatest,
  requireFreeBytes,
  writeFileAtomically,
  writeFolderAtomically,
  writeLatest,
  writeWholeFile,
} from '../../src/io/atomic.ts';
import { Failure } from '../../src/io/failure.ts';
import { MetricsLog } from '../../src/io/jsonl.ts';
import { writeSafetensors } from '../../src/io/safetensors_write.ts';

const CHILD = `${import.meta.dir}/io-children/checkpoint.ts`;
const base = mkdtempSync(join(tmpdir(), 'microdiff-atomic-'));
let folder: string;
let counter = 0;
beforeEach(() => {
  folder = join(base, String(counter++));
  mkdirSync(folder);
});
afterAll(() => rmSync(base, { recursive: true, force: true }));

function message(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    expect(error).toBeInstanceOf(Failure);
    return (error as Failure).message;
  }
  throw new Error('it went through');
}

describe('files', () => {
  test('a new file replaces the old one, a failure keeps it', () => {
    const path = join(folder, 'file');
    writeWholeFile(path, 'one');
    writeFileAtomically(path, (sink) => {
      sink.write('tw');
      sink.write(Uint8Array.of(0x6f));
      expect(sink.bytes).toBe(3);
      expect(readFileSync(path, 'utf8')).toBe('one');
    });
    expect(readFileSync(path, 'utf8')).toBe('two');
    const broken = () =>
      writeFileAtomically(path, (sink) => {
        sink.write('three');
        throw new RangeError('a bug');
      });
    expect(broken).toThrow(RangeError);
    expect(readFileSync(path, 'utf8')).toBe('two');
    expect(readdirSync(folder)).toEqual(['file']);
  });

  test('paths that cannot be', () => {
    writeFileSync(join(folder, 'file'), '');
    expect(message(() => writeWholeFile(join(folder, 'file', 'x'), ''))).toContain('is a file, not a folder');
    expect(message(() => writeWholeFile(join(folder, 'absent', 'x'), ''))).toContain(
      'no such file or folder',
    );
    expect(message(() => writeWholeFile(folder, ''))).toContain(`${folder}: cannot write: `);
    expect(message(() => makeFolder(join(folder, 'file')))).toContain('a file of this name is in the way');
    expect(message(() => makeFolder(join(folder, 'file', 'below')))).toContain('is a file, not a folder');
    expect(message(() => writeWholeFile(join(folder, 'n'.repeat(300)), ''))).toContain('too long');
    writeWholeFile(join(folder, 'n'.repeat(255)), '');
    rmSync(join(folder, 'n'.repeat(255)));
    expect(readdirSync(folder)).toEqual(['file']);
  });
});

describe('folders', () => {
  const version = (n: number) => (part: string) => writeWholeFile(join(part, 'file'), String(n));

  test('made, replaced, kept on failure', () => {
    const path = join(folder, 'checkpoints', 'step-1');
    writeFolderAtomically(path, version(1));
    writeFolderAtomically(path, version(2));
    expect(readFileSync(join(path, 'file'), 'utf8')).toBe('2');
    const error = message(() =>
      writeFolderAtomically(path, (part) => writeWholeFile(join(part, 'absent', 'model'), '')),
    );
    expect(error).toContain(`${path}/absent/model: cannot write`);
    expect(readFileSync(join(path, 'file'), 'utf8')).toBe('2');
    expect(readdirSync(join(folder, 'checkpoints'))).toEqual(['step-1']);
  });

  test('leftovers of the dead are removed, those of the living stay', () => {
    const living = Bun.spawn(['sleep', '30']);
    const dead = Bun.spawnSync(['true']).pid;
    const names = {
      dead: `.step-1.${dead}-abc.part`,
      reused: `.step-1.${process.pid}-abc.part`,
      living: `.step-2.${living.pid}-abc.part`,
      stale: `.step-3.${living.pid}-abc.part`,
    };
    for (const name of Object.values(names)) mkdirSync(join(folder, name));
    utimesSync(join(folder, names.stale), 1e9, 1e9);
    const aside = '.replaced-by-microdiff';
    mkdirSync(join(folder, `.moved${aside}`));
    writeFileSync(join(folder, `.moved${aside}`, 'file'), 'kept');
    mkdirSync(join(folder, 'there'));
    mkdirSync(join(folder, `.there${aside}`));
    writeFileSync(join(folder, '.bashrc.old'), 'somebody else has it');
    writeFileSync(join(folder, '.hidden'), '');
    cleanLeftovers(folder);
    living.kill();
    expect(readdirSync(folder).sort()).toEqual(
      ['.bashrc.old', '.hidden', names.living, 'moved', 'there'].sort(),
    );
    expect(readFileSync(join(folder, 'moved', 'file'), 'utf8')).toBe('kept');
  });

  test('a temporary in progress is nobody else’s leftover', () => {
    writeFolderAtomically(join(folder, 'x'), (part) => {
      expect(cleanLeftovers(folder)).toEqual([]);
      writeWholeFile(join(part, 'file'), '');
    });
    expect(readdirSync(folder)).toEqual(['x']);
  });

  test('killed at random moments, a checkpoint is whole', async () => {
    for (let round = 0; round < 8; round++) {
      const child = Bun.spawn([process.execPath, CHILD, folder], { stdout: 'ignore', stderr: 'inherit' });
      while (readLatest(folder) === undefined) await Bun.sleep(1);
      await Bun.sleep(5 + round * 3.7);
      child.kill('SIGKILL');
      await child.exited;
      cleanLeftovers(folder);
      expect(readdirSync(folder).sort()).toEqual(['checkpoint', 'latest']);
      const [a, b] = ['a', 'b'].map((name) => readFileSync(join(folder, 'checkpoint', name)));
      expect(a!.equals(b!)).toBe(true);
      expect(a!.length).toBe(40_000);
      expect(readLatest(folder)).toMatch(/^checkpoint-\d+$/);
    }
  });
});

test('latest', () => {
  expect(readLatest(folder)).toBeUndefined();
  writeLatest(folder, 'step-00000004');
  expect(readLatest(folder)).toBe('step-00000004');
  for (const bad of ['', '..', '../../etc', '/etc/passwd', 'a/b']) {
    writeFileSync(join(folder, 'latest'), bad);
    expect(readLatest(folder)).toBeUndefined();
  }
});

test('free space is asked for before', () => {
  expect(freeBytes(join(folder, 'not', 'yet'))).toBeGreaterThan(0);
  requireFreeBytes(folder, 1, 'a checkpoint');
  const error = message(() => requireFreeBytes(folder, 1e18, 'a checkpoint'));
  expect(error).toMatch(
    /^.*: a checkpoint needs 1000000000000 MB and the disk has \d+(\.\d)? MB left\. Free space/,
  );
});

describe('with a mount of its own', () => {
  const mounted = (options: string, action: (mount: string) => void) => {
    const mount = join(folder, 'mount');
    mkdirSync(mount);
    if (Bun.spawnSync(['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', mount]).exitCode !== 0) {
      console.error('skipped: mounting a small tmpfs needs root');
      return;
    }
    try {
      action(mount);
    } finally {
      Bun.spawnSync(['umount', mount]);
    }
  };

  test('a full disk leaves the old files and no temporaries', () => {
    mounted('size=1m', (mount) => {
      const path = join(mount, 'model.safetensors');
      const tensor = (n: number) => ({
        name: 'w',
        dtype: 'F32' as const,
        shape: [n],
        data: new Float32Array(n).fill(1),
      });
      writeSafetensors(path, [tensor(1000)]);
      const before = readFileSync(path);
      expect(message(() => writeSafetensors(path, [tensor(2 ** 20)]))).toBe(
        `${path}: cannot write: the disk is full. Free space there or choose another folder`,
      );
      const step = join(mount, 'checkpoints', 'step-1');
      const fill = (part: string) => {
        writeSafetensors(join(part, 'model.safetensors'), [tensor(1000)]);
        writeSafetensors(join(part, 'optimizer.safetensors'), [tensor(2 ** 20)]);
      };
      expect(message(() => writeFolderAtomically(step, fill))).toContain(
        `${step}/optimizer.safetensors: cannot`,
      );
      expect(readdirSync(mount).sort()).toEqual(['checkpoints', 'model.safetensors']);
      expect(readdirSync(join(mount, 'checkpoints'))).toEqual([]);
      expect(readFileSync(path).equals(before)).toBe(true);

      using log = MetricsLog.open(join(mount, 'metrics.jsonl'), 0);
      log.append({ step: 1 });
      const long = { step: 2, text: 'x'.repeat(2 ** 21) };
      expect(message(() => log.append(long))).toContain('metrics.jsonl: cannot write: the disk is full');
      log.append({ step: 2 });
      expect(readFileSync(join(mount, 'metrics.jsonl'), 'utf8')).toBe('{"step":1}\n{"step":2}\n');
    });
  });

  test('a read-only disk', () => {
    mounted('size=1m,ro', (mount) => {
      expect(message(() => writeWholeFile(join(mount, 'x'), ''))).toContain('the file system is read-only');
      expect(message(() => makeFolder(join(mount, 'x')))).toContain('the file system is read-only');
    });
  });
});

test('a folder without permission', () => {
  if (process.getuid?.() === 0) {
    console.error('skipped: permissions do not bind root');
    return;
  }
  chmodSync(folder, 0o555);
  expect(message(() => writeWholeFile(join(folder, 'x'), ''))).toContain('permission denied');
  expect(existsSync(join(folder, 'x'))).toBe(false);
  chmodSync(folder, 0o755);
});
