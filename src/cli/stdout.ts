// Standard output: data only, through the one write loop that survives slow and closed pipes.

import { Writer } from '../io/lines.ts';

export const stdout = new Writer(1);
