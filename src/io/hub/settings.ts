// Where downloads come from and go to, by the environment variables that huggingface_hub and torch read.

import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { EXIT, Failure } from '../failure.ts';
import { osCode, osFailure } from '../oserror.ts';

type Env = Readonly<Record<string, string | undefined>>;

export interface HubSettings {
  /** Address of the hub, without a slash at its end. */
  readonly endpoint: string;
  /** Folder of the repositories (models--ORG--NAME). */
  readonly cache: string;
  /** Where torch.hub keeps files by their name. */
  readonly torch: string;
  /** Folder of this program's own notes: what was pinned. */
  readonly home: string;
  readonly offline: boolean;
  /** Sent to the endpoint and to no other host. */
  readonly token: string | undefined;
}

/** Reads the settings; a bad one is a Failure with exit code 2 that names its variable. */
export function hubSettings(env: Env, home = env.HOME || homedir()): HubSettings {
  const path = (text: string) => text.replace(/^~(?=\/|$)/, home);
  const caches = path(env.XDG_CACHE_HOME || '~/.cache');
  const hf = path(env.HF_HOME || join(caches, 'huggingface'));
  return {
    endpoint: endpointOf(env.HF_ENDPOINT || 'https://huggingface.co'),
    cache: path(env.HF_HUB_CACHE || env.HUGGINGFACE_HUB_CACHE || join(hf, 'hub')),
    torch: join(path(env.TORCH_HOME || join(caches, 'torch')), 'hub', 'checkpoints'),
    home: path(env.MICRODIFF_HOME || join(env.XDG_STATE_HOME || '~/.local/state', 'microdiff')),
    offline: isTrue(env.HF_HUB_OFFLINE) || isTrue(env.TRANSFORMERS_OFFLINE),
    token: isTrue(env.HF_HUB_DISABLE_IMPLICIT_TOKEN) ? undefined : tokenOf(env, path, hf),
  };
}

function endpointOf(text: string): string {
  const address = URL.parse(text);
  if (address && /^https?:$/.test(address.protocol)) return text.replace(/\/+$/, '');
  throw new Failure({
    what: 'HF_ENDPOINT',
    why: `${text} is not an address`,
    fix: 'Write it as https://huggingface.co',
    code: EXIT.usage,
  });
}

function tokenOf(env: Env, path: (text: string) => string, hf: string): string | undefined {
  const given = (env.HF_TOKEN || env.HUGGING_FACE_HUB_TOKEN || '').trim();
  const file = path(env.HF_TOKEN_PATH || join(hf, 'token'));
  const token = given || tokenIn(file);
  if (token === '' || /^[\x21-\x7e]+$/.test(token)) return token || undefined;
  // Without the token itself: messages end up in logs.
  throw new Failure({
    what: given ? 'HF_TOKEN' : file,
    why: 'holds characters that no token has',
    fix: 'Copy the token again',
    code: EXIT.usage,
  });
}

function tokenIn(file: string): string {
  try {
    return readFileSync(file, 'utf8').trim();
  } catch (error) {
    if (osCode(error) === 'ENOENT' || osCode(error) === 'ENOTDIR') return '';
    throw osFailure(error, file, 'read');
  }
}

function isTrue(text: string | undefined): boolean {
  return /^(1|on|yes|true)$/i.test(text ?? '');
}
