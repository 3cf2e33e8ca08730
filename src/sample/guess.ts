// What a file of tensors is, told by names and shapes alone: a MicroDiT and its preset, a CLIP text tower, an
// autoencoder, a part of a run.
import { presetRows } from '../recipe/presets.ts';
import { type ModelConfig, TABLES } from '../recipe/schema.ts';
import { declareNetwork } from './network.ts';

/** The guess and what else the shapes tell. */
export type Guess = Readonly<Record<string, string | number | boolean | readonly number[] | null>> & {
  readonly what: 'MicroDiT' | 'CLIP text tower' | 'autoencoder' | 'optimizer state of a run' | 'unknown';
};

type Shapes = ReadonlyMap<string, { readonly shape: readonly number[] }>;
type ShapeOf = (name: string) => readonly number[] | undefined;

/** What checkpoints put before the names of a part. */
const PREFIXES = ['', 'dit.', 'text.', 'vae.', 'first_stage_model.'];

/** What a file holds; the first that fits, in the order of `Guess.what`. */
export function guessContent(tensors: Shapes): Guess {
  for (const prefix of PREFIXES) {
    const shapeOf: ShapeOf = (name) => tensors.get(prefix + name)?.shape;
    const names = [...tensors.keys()].filter((n) => n.startsWith(prefix)).map((n) => n.slice(prefix.length));
    const guess =
      guessMicrodit(shapeOf, names) ?? guessClip(shapeOf, names) ?? guessAutoencoder(shapeOf, names);
    if (guess) return prefix === '' ? guess : { ...guess, prefix };
  }
  if (tensors.has('state') && tensors.has('m.x_embedder.proj.weight'))
    return { what: 'optimizer state of a run' };
  return { what: 'unknown' };
}

/** Blocks `stem.0`, `stem.1`, ... of a list of names. */
function blocks(names: readonly string[], stem: string): number {
  const places = names.flatMap((name) =>
    name.startsWith(stem) ? [Number.parseInt(name.slice(stem.length), 10)] : [],
  );
  return new Set(places.filter((place) => place >= 0)).size;
}

function guessMicrodit(shapeOf: ShapeOf, names: readonly string[]): Guess | null {
  const [dim, in_channels, patch_size] = shapeOf('x_embedder.proj.weight') ?? [];
  const tokens = shapeOf('pos_embed')?.at(-2);
  const caption_channels = shapeOf('y_embedder.y_proj.fc1.weight')?.[1];
  if (!dim || !in_channels || !patch_size || !tokens || !caption_channels) return null;
  const sizes = { in_channels, input_size: Math.round(Math.sqrt(tokens)) * patch_size, caption_channels };
  const found = Object.keys(presetRows).find((name) =>
    fitsPreset(name, { dim, patch_size, ...sizes }, shapeOf, names),
  );
  const [depth, mixer] = [blocks(names, 'blocks.'), blocks(names, 'patch_mixer.')];
  return {
    what: 'MicroDiT',
    preset: found ?? null,
    ...sizes,
    dim,
    patch_size,
    depth,
    patch_mixer_depth: mixer,
  };
}

/**
 * The preset that a file of MicroDiT's tensors comes nearest to, by its width, patches and blocks; null where
 * there is none.
 */
export function nearestPreset(guess: Guess): string | null {
  const same = Object.entries(presetRows).find(([, { model }]) => {
    if (!model || model.dim !== guess.dim || model.patch_size !== guess.patch_size) return false;
    return model.depth === guess.depth;
  });
  return same?.[0] ?? null;
}

/** Whether every parameter of a preset, with the sizes of the file, is there with its shape, and no other. */
function fitsPreset(
  name: string,
  sizes: Pick<ModelConfig, 'dim' | 'patch_size' | 'in_channels' | 'input_size' | 'caption_channels'>,
  shapeOf: ShapeOf,
  names: readonly string[],
): boolean {
  const preset = presetRows[name]?.model;
  if (!preset || preset.dim !== sizes.dim || preset.patch_size !== sizes.patch_size) return false;
  const defaults = Object.fromEntries(Object.entries(TABLES.model).map(([key, row]) => [key, row.default]));
  const config = { ...defaults, ...preset, ...sizes } as ModelConfig; // rows of the preset table are checked
  if (blocks(names, 'blocks.') !== config.depth) return false;
  const { list } = declareNetwork(config, null).parameters;
  const own = names.filter((key) => !key.startsWith('text_embedder.'));
  return own.length === list.length && list.every((p) => shapeOf(p.name)?.join() === p.shape.join());
}

/** The text tower in OpenCLIP's names; heads and kind of GELU do not show in the shapes. */
function guessClip(shapeOf: ShapeOf, names: readonly string[]): Guess | null {
  const [vocab, width] = shapeOf('token_embedding.weight') ?? [];
  const context = shapeOf('positional_embedding')?.[0];
  const layers = blocks(names, 'transformer.resblocks.');
  if (!vocab || !width || !context || layers === 0) return null;
  const visual = names.some((name) => name.startsWith('visual.'));
  return {
    what: 'CLIP text tower',
    vocab,
    context,
    width,
    layers,
    embed_dim: shapeOf('text_projection')?.[1] ?? null,
    visual,
  };
}

/** An autoencoder in the names of diffusers or of the LDM code. */
function guessAutoencoder(shapeOf: ShapeOf, names: readonly string[]): Guess | null {
  const image_channels = shapeOf('encoder.conv_in.weight')?.[1];
  const latent_channels = shapeOf('decoder.conv_in.weight')?.[1];
  if (!image_channels || !latent_channels) return null;
  const ldm = names.some((name) => name.startsWith('encoder.down.'));
  const first = (i: number) => (ldm ? `encoder.down.${i}.block.0` : `encoder.down_blocks.${i}.resnets.0`);
  const levels = blocks(names, ldm ? 'encoder.down.' : 'encoder.down_blocks.');
  const widths = Array.from({ length: levels }, (_, i) => shapeOf(`${first(i)}.conv1.weight`)?.[0] ?? 0);
  return { what: 'autoencoder', names: ldm ? 'LDM' : 'diffusers', image_channels, latent_channels, widths };
}
