// The command table: every command, in the order of help.

import { ablate } from './ablate.ts';
import { bench } from './bench.ts';
import type { Command } from './command.ts';
import { completions } from './completions.ts';
import { convert } from './convert.ts';
import { data } from './data.ts';
import { doctor } from './doctor.ts';
import { evaluate } from './eval.ts';
import { help } from './help.ts';
import { info } from './info.ts';
import { licenses } from './licenses.ts';
import { list } from './list.ts';
import { plan } from './plan.ts';
import { plot } from './plot.ts';
import { prepare } from './prepare.ts';
import { pull } from './pull.ts';
import { quickstart } from './quickstart.ts';
import { rm } from './rm.ts';
import { sample } from './sample.ts';
import { serve } from './serve.ts';
import { serveEngine } from './serve-engine.ts';
import { train } from './train.ts';
import { verify } from './verify.ts';
import { watch } from './watch.ts';

export const SUMMARY =
  'Trains text-to-image diffusion transformers from scratch on a micro-budget and samples from them';

export const COMMANDS: readonly Command[] = [
  quickstart,
  plan,
  prepare,
  train,
  sample,
  serve,
  pull,
  list,
  rm,
  evaluate,
  ablate,
  bench,
  verify,
  data,
  plot,
  watch,
  info,
  convert,
  doctor,
  licenses,
  completions,
  help,
];

/** Commands that this program starts itself; no one types them. */
export const INTERNAL: readonly Command[] = [serveEngine];
