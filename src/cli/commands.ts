// The command table: every command, in the order of help.

import type { Command } from './command.ts';
import { completions } from './completions.ts';
import { help } from './help.ts';

export const SUMMARY =
  'Trains text-to-image diffusion transformers from scratch on a micro-budget and samples from them';

export const COMMANDS: readonly Command[] = [completions, help];
