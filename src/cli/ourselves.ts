// The command line that starts this program once more.

/** The executable, or Bun with the script. */
export function ourselves(): string[] {
  return Bun.main.startsWith('/$bunfs/') ? [process.execPath] : [process.execPath, Bun.main];
}
