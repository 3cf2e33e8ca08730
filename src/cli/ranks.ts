// Which rank of a run on several GPUs this process is: from the variables that torchrun, Open MPI or SLURM
// set, or that `--gpus` sets for the processes that it starts.

import type { Backend, Rank } from '../backend/backend.ts';
import type { Recipe } from '../recipe/schema.ts';
import { recipeToml } from '../recipe/resolve.ts';
import { EXIT, Failure } from '../io/failure.ts';
import { usage } from './flags.ts';
import { version } from './version.ts';

/** Set for processes that `--gpus` has started. */
export const LAUNCHED = 'MICRODIFF_LAUNCHED';

type Env = Readonly<Record<string, string | undefined>>;

export interface Placed extends Rank {
  /** Number among the ranks of this machine: that of its GPU. */
  readonly local: number;
  /** Ranks of this machine, where that is known. */
  readonly locals: number | null;
  /** Where the ranks meet. */
  readonly host: string;
  readonly port: number;
}

/** Names of rank, number of ranks and number on the machine; the first family that is there counts. */
const FAMILIES = [
  ['RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE'],
  [
    'OMPI_COMM_WORLD_RANK',
    'OMPI_COMM_WORLD_SIZE',
    'OMPI_COMM_WORLD_LOCAL_RANK',
    'OMPI_COMM_WORLD_LOCAL_SIZE',
  ],
  ['SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID', ''],
] as const;

/**
 * This process's place in a run of several; null where it is alone. A Failure (code 2) for half a setting.
 */
export function rankFromEnv(env: Env): Placed | null {
  const family = FAMILIES.find(([rank, ranks]) => {
    // A batch script of SLURM has its variables too; only what srun starts is a rank.
    if (rank === 'SLURM_PROCID' && !env.SLURM_STEP_ID) return false;
    return Boolean(env[rank] || env[ranks]);
  });
  if (!family) return null;
  const [rankName, ranksName, localName, localsName] = family;
  const ranks = whole(env, ranksName, rankName);
  const rank = whole(env, rankName, ranksName);
  if (rank >= ranks)
    throw usage(rankName, `there is no rank ${rank} of ${ranks}`, `Count from 0 to ${ranksName} - 1`);
  if (ranks === 1) return null;
  const local = whole(env, localName, rankName);
  const port = whole(env, 'MASTER_PORT', rankName);
  const host = env.MASTER_ADDR;
  if (!host) throw missing('MASTER_ADDR', rankName);
  if (port < 1 || port > 65_534)
    throw usage('MASTER_PORT', `${port} is not between 1 and 65534`, 'Choose another');
  const locals = env[localsName] ? whole(env, localsName, rankName) : null;
  return { rank, ranks, local, locals, host, port: port + 1 };
}

function whole(env: Env, name: string, beside: string): number {
  const text = env[name];
  if (!text) throw missing(name, beside);
  if (/^\d{1,9}$/.test(text)) return Number(text);
  throw usage(name, `${JSON.stringify(text)} is no number`, 'Leave it to the program that starts the ranks');
}

function missing(name: string, beside: string): Failure {
  const fix = `Set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, or unset ${beside}`;
  return usage(name, `is not set, and ${beside} is`, fix);
}

/** Seconds that ranks wait for each other at the beginning. */
const PATIENCE = 300;

/** Brings the ranks of a run together. Returns what has to be ended with the run. */
export async function joinRanks(backend: Backend, placed: Placed, recipe: Recipe, env: Env = process.env) {
  const { group } = backend;
  if (!group) {
    const fix = 'Use the CPU or an NVIDIA GPU';
    throw new Failure({ what: backend.name, why: 'cannot be one of several', fix, code: EXIT.missing });
  }
  const { meet } = await import('../train/rendezvous.ts');
  const cpu = backend.name === 'cpu';
  const { rank, ranks, host, port } = placed;
  const meeting = await meet({
    ...{ rank, ranks, host, port, group, near: cpu },
    seconds: Number(env.MICRODIFF_JOIN_SECONDS ?? PATIENCE),
    facts: {
      version,
      recipe: new Bun.SHA256().update(recipeToml(recipe)).digest('hex'),
      'kind of device': cpu ? 'cpu' : `cuda ${backend.elemBytes.act}`,
    },
  });
  meeting.lost.then((error) => group.leave(error));
  return meeting;
}
