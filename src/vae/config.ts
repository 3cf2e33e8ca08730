// What an autoencoder of the SDXL family is built from: diffusers' config.json of an AutoencoderKL, checked.
import { Failure } from '../io/failure.ts';
import { readJsonFile } from '../io/read-json.ts';

/** Names and meaning as in diffusers' `AutoencoderKL.__init__`. */
export interface VaeConfig {
  /** Channels of the image that goes in, and of the one that comes out. */
  readonly in_channels: number;
  readonly out_channels: number;
  readonly latent_channels: number;
  /** Widths of the levels, from the image inwards; every level but the last halves the image. */
  readonly block_out_channels: readonly number[];
  readonly layers_per_block: number;
  readonly norm_num_groups: number;
  readonly use_quant_conv: boolean;
  readonly use_post_quant_conv: boolean;
  readonly mid_block_add_attention: boolean;
  readonly scaling_factor: number;
  /** Subtracted from latents before they are scaled; one number for every channel. */
  readonly shift: readonly number[];
  /** Factor of each latent channel: scaling_factor, divided by latents_std where the file has one. */
  readonly scale: readonly number[];
}

/** Pixels of the image to one of the latent, along each side. */
export function vaeFactor(config: VaeConfig): number {
  return 2 ** (config.block_out_channels.length - 1);
}

/** Every number of a config lies below this: no hostile file asks for more. */
const MOST = 65_536;

/**
 * The config in a diffusers config.json, `where` names the file. What is left out has that class's default,
 * but for scaling_factor: its default is that of another model, so it must be there.
 */
export function readVaeConfig(json: unknown, where: string): VaeConfig {
  if (typeof json !== 'object' || json === null || Array.isArray(json)) {
    throw new Failure({ what: where, why: 'must be a JSON object' });
  }
  const at = new Reader(json, where);
  const name = at.value('_class_name', 'AutoencoderKL');
  if (name !== 'AutoencoderKL')
    throw at.refuse('_class_name', `is ${JSON.stringify(name)}, not AutoencoderKL`);
  const act = at.value('act_fn', 'silu');
  if (act !== 'silu' && act !== 'swish') throw at.refuse('act_fn', 'must be silu');
  at.blocks('down_block_types', 'DownEncoderBlock2D');
  at.blocks('up_block_types', 'UpDecoderBlock2D');

  const widths = at.list('block_out_channels') ?? [64];
  const groups = at.count('norm_num_groups', 32);
  const latent = at.count('latent_channels', 4);
  const wrong = widths.find((C) => !Number.isInteger(C) || C < 1 || C > MOST || C % groups !== 0);
  if (widths.length < 1 || widths.length > 8 || wrong !== undefined) {
    throw at.refuse('block_out_channels', `must be 1 to 8 multiples of norm_num_groups (${groups})`);
  }
  const perChannel = (key: string) => {
    const list = at.list(key);
    if (list && list.length !== latent) throw at.refuse(key, `must be ${latent} numbers`);
    return list;
  };
  const scaling = at.real('scaling_factor');
  const std = perChannel('latents_std');
  const mean = perChannel('latents_mean');
  const shift = at.real('shift_factor', 0);
  if (!(scaling > 0)) throw at.refuse('scaling_factor', 'must be positive');
  if (std?.some((v) => !(v > 0))) throw at.refuse('latents_std', 'must be positive');
  return {
    in_channels: at.count('in_channels', 3),
    out_channels: at.count('out_channels', 3),
    latent_channels: latent,
    block_out_channels: widths,
    layers_per_block: at.count('layers_per_block', 1),
    norm_num_groups: groups,
    use_quant_conv: at.flag('use_quant_conv', true),
    use_post_quant_conv: at.flag('use_post_quant_conv', true),
    mid_block_add_attention: at.flag('mid_block_add_attention', true),
    scaling_factor: scaling,
    shift: Array.from({ length: latent }, (_, c) => mean?.[c] ?? shift),
    scale: Array.from({ length: latent }, (_, c) => scaling / (std?.[c] ?? 1)),
  };
}

/** The same out of a file. */
export function readVaeConfigFile(path: string): VaeConfig {
  return readVaeConfig(readJsonFile(path), path);
}

/** Values of a JSON object; null counts as absent, as in diffusers. */
class Reader {
  constructor(
    private readonly json: object,
    private readonly where: string,
  ) {}

  refuse(key: string, why: string): Failure {
    return new Failure({
      what: `${this.where}: ${key}`,
      why,
      fix: 'Use the config.json of this autoencoder',
    });
  }

  value(key: string, otherwise: unknown): unknown {
    return Object.entries(this.json).find(([name]) => name === key)?.[1] ?? otherwise;
  }

  real(key: string, otherwise?: number): number {
    const value = this.value(key, otherwise);
    if (typeof value === 'number' && Number.isFinite(value)) return value;
    throw this.refuse(key, value === undefined ? 'is missing' : 'must be a number');
  }

  count(key: string, otherwise: number): number {
    const value = this.real(key, otherwise);
    if (Number.isInteger(value) && value >= 1 && value <= MOST) return value;
    throw this.refuse(key, `must be a whole number from 1 to ${MOST}`);
  }

  flag(key: string, otherwise: boolean): boolean {
    const value = this.value(key, otherwise);
    if (typeof value === 'boolean') return value;
    throw this.refuse(key, 'must be true or false');
  }

  list(key: string): readonly number[] | null {
    const value = this.value(key, null);
    if (value === null) return null;
    const isNumber = (v: unknown): v is number => typeof v === 'number' && Number.isFinite(v);
    if (Array.isArray(value) && value.every(isNumber)) return value;
    throw this.refuse(key, 'must be a list of numbers');
  }

  /** Only blocks without attention of their own are known. */
  blocks(key: string, kind: string): void {
    const value = this.value(key, [kind]);
    if (!Array.isArray(value)) throw this.refuse(key, 'must be a list');
    const other = value.find((name) => name !== kind);
    if (other !== undefined) throw this.refuse(key, `holds ${JSON.stringify(other)}, only ${kind} is known`);
  }
}
