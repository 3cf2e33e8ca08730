// The drawing library is unpacked from the executable when it is first used; what a user can do when that
// fails.
import { EXIT, Failure } from '../failure.ts';

/** Imports a module that draws: `await withCanvas(() => import('.../sheet.ts'))`. */
export async function withCanvas<T>(load: () => Promise<T>): Promise<T> {
  try {
    return await load();
  } catch (error) {
    throw canvasFailure(error);
  }
}

/**
 * A library that cannot be loaded from the temporary folder, as a Failure; other errors come back unchanged.
 */
function canvasFailure(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  const { cause } = error;
  const texts = [error.message, cause instanceof Error ? cause.message : ''].join('\n');
  if (!/native binding|ERR_DLOPEN_FAILED|\$bunfs/.test(texts)) return error;
  const folder = process.env.BUN_TMPDIR ?? process.env.TMPDIR ?? '/tmp';
  return new Failure({
    what: `temporary folder ${folder}`,
    why: 'the drawing library cannot be unpacked there and loaded (full, read-only or mounted noexec)',
    fix: 'Set TMPDIR to a writable folder that allows programs, such as TMPDIR=$HOME/.cache',
    code: EXIT.missing,
  });
}
