// Command: a checkpoint of torch.save, or a .safetensors file, to a .safetensors file.

import { type Converted, convertTensors } from '../io/convert.ts';
import { openTensors } from '../io/open-tensors.ts';
import { choice, text } from '../recipe/field.ts';
import { command } from './command.ts';
import { flag, usage } from './flags.ts';
import { watchSignals } from './interrupt.ts';

const FORMATS = { f32: 'F32', bf16: 'BF16', f16: 'F16' } as const;

/** Stands for the result where a signal came first. */
const STOPPED: Converted = { tensors: 0, bytes: 0, left: [] };

/** Names that are listed where tensors are left out. */
const SHOWN = 3;

export const convert = command({
  name: 'convert',
  summary: 'Copies the tensors of a checkpoint (torch or safetensors) to a .safetensors file',
  flags: {
    dtype: flag(
      choice(undefined, ['f32', 'bf16', 'f16'], 'Format of floating-point tensors (default: as they are)'),
      { hint: 'f32|bf16|f16' },
    ),
    take: flag(text(undefined, 'Keys of the dictionary that holds the tensors, as in state.model'), {
      hint: 'KEYS',
    }),
    prefix: flag(
      text(undefined, 'Take the tensors whose names begin so, and cut it off (default: dit. of Composer)'),
      { hint: 'TEXT' },
    ),
  },
  args: [
    { name: 'from', meaning: 'A .pt, .bin or .safetensors file', required: true },
    { name: 'to', meaning: 'The .safetensors file to write', required: true },
  ],
  examples: [
    ['microdiff convert dit_4_channel_37M.pt dit.safetensors', 'the same tensors, bit for bit'],
    [
      'microdiff convert ep10-ba250000.pt dit.safetensors --dtype bf16',
      'the transformer of a run, half the size',
    ],
  ],
  async run({ args, values, log }) {
    const [from = '', to = ''] = args;
    if (!to.toLowerCase().endsWith('.safetensors')) {
      const better = to.endsWith('/') ? `${to}model` : to.replace(/\.\w+$/, '');
      throw usage(to, 'convert writes safetensors only', `Name it ${better}.safetensors`);
    }
    const { take, dtype } = values;
    using file = openTensors(from, take === undefined ? {} : { take });
    const prefix = values.prefix ?? file.prefix;
    const steps = convertTensors(file, to, { prefix, ...(dtype ? { dtype: FORMATS[dtype] } : {}) });
    const interrupt = watchSignals(log, `stopping; ${to} is not written`);
    let step = steps.next();
    while (!step.done) {
      await new Promise((resolve) => setImmediate(resolve));
      step = interrupt.stopRequested ? steps.return(STOPPED) : steps.next();
    }
    const done = step.value;
    if (interrupt.exitCode !== undefined) return interrupt.exitCode;
    if (prefix !== '') log.info(`${from}: took the tensors named ${prefix}* and cut that off`);
    if (done.left.length > 0) {
      const more = done.left.length > SHOWN ? `, and ${done.left.length - SHOWN} more` : '';
      log.warn(`${from}: left out ${done.left.slice(0, SHOWN).join(', ')}${more}`);
    }
    log.info(`${to}: ${done.tensors} tensors, ${(done.bytes / 1e6).toFixed(1)} MB`);
    return 0;
  },
});
