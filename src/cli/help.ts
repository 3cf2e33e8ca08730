// Command: help of the program, of a command, or of recipes.

import { recipeReference } from '../recipe/reference.ts';
import { didYouMean } from '../recipe/nearest.ts';
import { command, commandHelp, programHelp } from './command.ts';
import { COMMANDS, SUMMARY } from './commands.ts';
import { usage } from './flags.ts';
import { stdout } from './stdout.ts';
import { colorOn } from './terminal.ts';
import { version } from './version.ts';

export const help = command({
  name: 'help',
  summary: 'Prints help on a command, or the reference of recipe keys',
  args: [{ name: 'topic', meaning: 'A command, or recipe' }],
  examples: [
    ['microdiff help train', 'the same as microdiff train --help'],
    ['microdiff help recipe', 'every key of a recipe, as Markdown'],
  ],
  async run({ args }) {
    stdout.write(await helpOn(args[0], colorOn(process.stdout)));
    return 0;
  },
});

/** The help text of a topic; of the program when there is none. Throws a Failure for an unknown topic. */
export async function helpOn(topic: string | undefined, color: boolean): Promise<string> {
  const text = await helpText(topic);
  return color ? text : Bun.stripANSI(text);
}

async function helpText(topic: string | undefined): Promise<string> {
  if (topic === undefined) return programHelp(COMMANDS, SUMMARY, version);
  if (topic === 'recipe') return recipeReference();
  const row = COMMANDS.find(({ name }) => name === topic);
  if (!row)
    throw usage(topic, 'no such topic', didYouMean(topic, ['recipe', ...COMMANDS.map((c) => c.name)]));
  return commandHelp(row);
}
