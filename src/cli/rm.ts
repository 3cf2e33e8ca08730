// Command: takes published weights out of the cache again.

import { Failure } from '../io/failure.ts';
import { removePulled } from '../io/hub/remove.ts';
import { hubSettings } from '../io/hub/settings.ts';
import { filesOf, findWeights, REGISTRY } from '../sample/registry.ts';
import { command } from './command.ts';
import { size } from './pull.ts';

export const rm = command({
  name: 'rm',
  summary: 'Removes downloaded weights from the cache; what they need stays',
  args: [{ name: 'name', meaning: 'A name of `microdiff list`', required: true, many: true }],
  examples: [['microdiff rm microdit-22m', 'frees its space, also for other programs that share the cache']],
  run({ args, log }) {
    const settings = hubSettings(process.env);
    const entries = args.map(findWeights);
    for (const entry of entries) {
      const freed = removePulled(filesOf(entry), settings);
      if (freed === undefined) {
        throw new Failure({
          what: entry.name,
          why: 'none of its files is in the cache',
          fix: 'See `microdiff list`',
        });
      }
      const needed = REGISTRY.filter(({ needs }) => needs.includes(entry.name)).map(({ name }) => name);
      const note = needed.length > 0 ? ` (needed by ${needed.join(', ')})` : '';
      log.info(`${entry.name}: removed${note}, ${size(freed)} freed`);
    }
    return 0;
  },
});
