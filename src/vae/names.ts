// The names that files give the autoencoder's tensors: diffusers' own, diffusers' before 2023 (parts of the
// attention called query, key, value, proj_attn), and the original LDM code's (encoder.down.0.block.0, in the
// decoder counted from the picture inwards too, 1x1 convolutions where diffusers has linear layers).
import { Failure } from '../io/failure.ts';
import type { Parameter, Parameters } from '../plan/params.ts';

/** What a file says of its tensors: enough to find the autoencoder's among them. */
export interface TensorList {
  readonly path: string;
  readonly tensors: ReadonlyMap<string, { readonly shape: readonly number[] }>;
}

/** Prefixes under which checkpoints of whole pipelines keep their autoencoder. */
const PREFIXES = ['', 'first_stage_model.', 'vae.'];

const OLD_ATTENTION = { to_q: 'query', to_k: 'key', to_v: 'value', 'to_out.0': 'proj_attn' };
const LDM_ATTENTION = { to_q: 'q', to_k: 'k', to_v: 'v', 'to_out.0': 'proj_out', group_norm: 'norm' };

function renamed(part: string, table: Readonly<Record<string, string>>): string {
  return Object.hasOwn(table, part) ? table[part]! : part;
}

/** diffusers' name, as files before 2023 have it. */
export function oldName(name: string): string {
  return name.replace(
    /(mid_block\.attentions\.0)\.(to_q|to_k|to_v|to_out\.0)\./,
    (_, at: string, part: string) => `${at}.${renamed(part, OLD_ATTENTION)}.`,
  );
}

/** diffusers' name, as the LDM code has it; `levels`: number of widths. */
export function ldmName(name: string, levels: number): string {
  return name
    .replace('conv_norm_out', 'norm_out')
    .replace('conv_shortcut', 'nin_shortcut')
    .replace(/mid_block\.resnets\.(\d)/, (_, i: string) => `mid.block_${Number(i) + 1}`)
    .replace(
      /mid_block\.attentions\.0\.(to_out\.0|\w+)\./,
      (_, part: string) => `mid.attn_1.${renamed(part, LDM_ATTENTION)}.`,
    )
    .replace(/down_blocks\.(\d)\.resnets/, 'down.$1.block')
    .replace(/down_blocks\.(\d)\.downsamplers\.0/, 'down.$1.downsample')
    .replace(/up_blocks\.(\d)\.resnets/, (_, i: string) => `up.${levels - 1 - Number(i)}.block`)
    .replace(/up_blocks\.(\d)\.upsamplers\.0/, (_, i: string) => `up.${levels - 1 - Number(i)}.upsample`);
}

/**
 * The file's name of every parameter, checked: all are there with their shapes, and nothing of an autoencoder
 * is left over. Other tensors (those of a whole pipeline, or of the training loss) are not looked at.
 */
export function tensorNames(
  parameters: Parameters,
  levels: number,
  file: TensorList,
): ReadonlyMap<string, string> {
  const styles = [(name: string) => name, oldName, (name: string) => ldmName(name, levels)];
  const forms = PREFIXES.flatMap((prefix) => styles.map((style) => (name: string) => prefix + style(name)));
  const present = (form: (name: string) => string) =>
    parameters.list.filter(({ name }) => file.tensors.has(form(name))).length;
  // The form that finds the most tensors is meant; its first missing one is worth naming.
  const best = forms.reduce((a, b) => (present(b) > present(a) ? b : a));
  const fix = 'Use the weights and the config.json of one autoencoder';
  const refuse = (why: string) => new Failure({ what: file.path, why, fix });
  const names = new Map<string, string>();
  for (const p of parameters.list) {
    const name = best(p.name);
    const entry = file.tensors.get(name);
    if (!entry) throw refuse(`tensor ${name} is missing`);
    const want = fileShape(p);
    if (!sameShape(entry.shape, want)) {
      throw refuse(
        `tensor ${name} has shape [${entry.shape.join(', ')}], the config needs [${want.join(', ')}]`,
      );
    }
    names.set(p.name, name);
  }
  const known = new Set(names.values());
  const prefix = best('');
  const own = /^(encoder|decoder|quant_conv|post_quant_conv)\./;
  const stranger = [...file.tensors.keys()].find(
    (name) => name.startsWith(prefix) && own.test(name.slice(prefix.length)) && !known.has(name),
  );
  if (stranger) throw refuse(`tensor ${stranger} does not belong to the autoencoder of the config`);
  return names;
}

/** Shape in files: [out, in, k, k] for our [out, k, k, in]. */
export function fileShape({ shape }: Pick<Parameter, 'shape'>): readonly number[] {
  const [out = 0, k, , inn = 0] = shape;
  return k === undefined ? [out] : [out, inn, k, k];
}

/** Linear layers [out, in] and 1x1 convolutions [out, in, 1, 1] are the same. */
function sameShape(a: readonly number[], b: readonly number[]): boolean {
  const core = (shape: readonly number[]) => shape.join().replace(/,1,1$/, '');
  return core(a) === core(b);
}

/** Values of a parameter in our order, from those in the file's: [out, in, k, k] to [out, k, k, in]. */
export function fromFileOrder<T extends Float32Array | Float64Array>(
  p: Pick<Parameter, 'shape'>,
  values: T,
): T {
  const [out = 0, k = 1, , inn = 1] = p.shape;
  if (k === 1) return values;
  const to = values.slice();
  const area = k * k;
  for (let o = 0; o < out; o++) {
    const base = o * area * inn;
    for (let c = 0; c < inn; c++) {
      for (let i = 0; i < area; i++) to[base + i * inn + c] = values[base + c * area + i]!;
    }
  }
  // slice() of a typed array keeps its kind.
  return to as T;
}
