// A JSON file that lies beside others (configs of weights): read whole, errors name the file.
import { readFileSync } from 'node:fs';
import { Failure } from './failure.ts';
import { osFailure } from './oserror.ts';

/** The value in a JSON file. Throws a Failure where it cannot be read or is broken. */
export function readJsonFile(path: string): unknown {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw osFailure(error, path, 'read');
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    const why = `broken JSON: ${error instanceof Error ? error.message : error}`;
    throw new Failure({ what: path, why, fix: 'Copy or download it again' });
  }
}
