// What a CLIP text tower is built from: open_clip's model_cfg (or the open_clip_config.json around it),
// checked.
import { Failure } from '../io/failure.ts';
import { readJsonFile } from '../io/read-json.ts';
import { CLIP_CONTEXT, CLIP_VOCABULARY } from './bpe.ts';

export interface ClipTextConfig {
  /** Rows of the token embedding, V. */
  readonly vocab: number;
  /** Tokens of a text, S. */
  readonly context: number;
  /** C */
  readonly width: number;
  /** H; a head is width / heads wide. */
  readonly heads: number;
  readonly layers: number;
  /** F, width of the layer between. */
  readonly hidden: number;
  /** x sigmoid(1.702 x) in place of the exact GELU: the file of weights does not say. */
  readonly quickGelu: boolean;
  /** Width of the pooled vector that is compared with images'. */
  readonly embed: number;
}

/** DFN5B-CLIP-ViT-H-14-378, the text encoder of the published MicroDiT models. */
export const DFN5B_TEXT: ClipTextConfig = {
  ...{ vocab: CLIP_VOCABULARY, context: CLIP_CONTEXT, width: 1024, heads: 16, layers: 24, hidden: 4096 },
  ...{ quickGelu: true, embed: 1024 },
};

/** Every number of a config lies below this: no hostile file asks for more. */
const MOST = 1_000_000;
const MOST_LAYERS = 1000;

/** Keys that change what is computed, and the value with which they do not. */
const UNKNOWN: Readonly<Record<string, readonly unknown[]>> = {
  hf_model_name: [],
  ls_init_value: [],
  embed_cls: [false],
  no_causal_mask: [false],
  final_ln_after_pool: [false],
  pool_type: ['argmax'],
  proj_type: ['linear'],
  proj_bias: [false],
  act_kwargs: [],
  norm_kwargs: [],
};

/**
 * The text part of a config; `where` names the file. What is left out has open_clip's default. A Failure
 * names the key that is wrong, or that asks for a kind of tower that is not known here.
 */
export function clipTextConfig(json: unknown, where: string): ClipTextConfig {
  const outer = record(json, where, 'the file');
  const model = outer.model_cfg === undefined ? outer : record(outer.model_cfg, where, 'model_cfg');
  const text = record(model.text_cfg, where, 'text_cfg');
  for (const [key, fine] of Object.entries(UNKNOWN)) {
    const value = text[key];
    if (value === undefined || value === null || fine.includes(value)) continue;
    throw refuse(where, `text_cfg.${key}`, `${JSON.stringify(value)} is not known here`);
  }
  const number = (from: Readonly<Record<string, unknown>>, key: string, otherwise?: number): number => {
    const value = from[key] ?? otherwise;
    if (typeof value === 'number' && value > 0 && value <= MOST) return value;
    throw refuse(where, key, value === undefined ? 'is missing' : `must be a number from 1 to ${MOST}`);
  };
  const whole = (from: Readonly<Record<string, unknown>>, key: string, otherwise?: number): number => {
    const value = number(from, key, otherwise);
    if (Number.isInteger(value)) return value;
    throw refuse(where, key, 'must be a whole number');
  };
  const width = whole(text, 'width', 512);
  const heads = whole(text, 'heads', 8);
  if (width % heads !== 0) throw refuse(where, 'text_cfg.heads', `${heads} do not divide width ${width}`);
  const layers = whole(text, 'layers', 12);
  if (layers > MOST_LAYERS) throw refuse(where, 'text_cfg.layers', `more than ${MOST_LAYERS}`);
  const quick = model.quick_gelu ?? false;
  if (typeof quick !== 'boolean') throw refuse(where, 'quick_gelu', 'must be true or false');
  return {
    vocab: whole(text, 'vocab_size', CLIP_VOCABULARY),
    context: whole(text, 'context_length', CLIP_CONTEXT),
    width,
    heads,
    layers,
    hidden: Math.floor(width * number(text, 'mlp_ratio', 4)),
    quickGelu: quick,
    embed: whole(model, 'embed_dim'),
  };
}

/** The same out of a file. */
export function readClipTextConfig(path: string): ClipTextConfig {
  return clipTextConfig(readJsonFile(path), path);
}

function refuse(where: string, key: string, why: string): Failure {
  return new Failure({ what: `${where}: ${key}`, why, fix: 'Use the open_clip_config.json of the weights' });
}

function record(value: unknown, where: string, key: string): Readonly<Record<string, unknown>> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
    return Object.fromEntries(Object.entries(value));
  }
  throw refuse(where, key, value === undefined ? 'is missing' : 'must be a JSON object');
}
