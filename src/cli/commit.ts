// The git commit of the sources. Runs as a macro while the program is bundled, so that the executable holds
// the answer and needs no git.

/** Short hash, with a + where tracked files differ from it; "unknown" outside a git checkout. */
export function commit(): string {
  const git = (...args: string[]) => {
    const { exitCode, stdout } = Bun.spawnSync(['git', '-C', import.meta.dir, ...args]);
    if (exitCode !== 0) throw new Error('no git checkout');
    return stdout.toString().trim();
  };
  try {
    const hash = git('rev-parse', '--short=12', 'HEAD');
    return git('status', '--porcelain', '--untracked-files=no') === '' ? hash : `${hash}+`;
  } catch {
    return 'unknown';
  }
}
