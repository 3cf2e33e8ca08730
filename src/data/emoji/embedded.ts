// The emoji pack inside the executable (or build/emoji.pack of the source tree).
import path from '../../../build/emoji.pack' with { type: 'file' };
import { Failure } from '../../io/failure.ts';
import { type EmojiSet, openEmoji } from './set.ts';

/** Opens the embedded pack. Throws a Failure when the source tree has not built it. */
export async function embeddedEmoji(): Promise<EmojiSet> {
  const file = Bun.file(path);
  if (!(await file.exists())) {
    throw new Failure({ what: 'emoji pack', why: 'is not built', fix: 'Run `make build/emoji.pack`' });
  }
  return openEmoji(await file.bytes());
}
