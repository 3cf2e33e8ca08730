// Parameters: named pieces of flat buffers, tagged where they are declared, bound into a trace by `Weights`.
import { Failure } from '../io/failure.ts';
import { product, type Tensor } from './tensor.ts';
import { ALIGN, type Trace } from './trace.ts';

/** How a parameter begins. `uniform` and `normal` draw from Philox with the parameter's own counter. */
export type Init =
  | { readonly kind: 'constant'; readonly value: number }
  | { readonly kind: 'normal'; readonly std: number }
  /** Uniform in -bound..bound. */
  | { readonly kind: 'uniform'; readonly bound: number }
  | { readonly kind: 'values'; readonly values: () => Float64Array };

export interface Tags {
  /** Weight decay applies. */
  readonly decay: boolean;
  /** What it is, for recipes that spare some kinds from weight decay. */
  readonly kind: 'weight' | 'norm' | 'bias' | 'embedding';
  /** Belongs to the experts, whose learning rate can be scaled. */
  readonly expert: boolean;
  /** A buffer: saved with the model and in the EMA, never trained. */
  readonly frozen: boolean;
  /** Read in float32 (`Weights.master`), whatever the compute type: the gates of routers. */
  readonly master: boolean;
}

export interface Parameter {
  readonly name: string;
  readonly shape: readonly number[];
  readonly count: number;
  readonly init: Init;
  readonly tags: Tags;
  /** Number in the order of declaration, which is the order in files. */
  readonly index: number;
  /**
   * First element in the flat buffers: those read in float32 come first, up to `masterEnd`, then the other
   * trainable ones, frozen ones after `trainableEnd`.
   */
  readonly base: number;
}

const DEFAULT_TAGS: Tags = { decay: true, kind: 'weight', expert: false, frozen: false, master: false };

/** Collects declarations; `seal` gives every parameter its place. */
export class Parameters {
  private readonly declared: Omit<Parameter, 'base'>[] = [];
  private sealed: Parameter[] | null = null;
  /** Elements at the beginning of the flat buffers that plans read in float32. */
  masterEnd = 0;
  /** Elements of the flat gradient, m and v buffers. */
  trainableEnd = 0;
  /** Elements of the flat weight and EMA buffers. */
  end = 0;

  add(name: string, shape: readonly number[], init: Init, tags: Partial<Tags> = {}): number {
    if (this.sealed)
      throw new Failure({ what: `parameter ${name}`, why: 'declared after the layout was fixed' });
    if (this.declared.some((p) => p.name === name)) {
      throw new Failure({ what: `parameter ${name}`, why: 'declared twice' });
    }
    const index = this.declared.length;
    const count = product(shape);
    this.declared.push({ name, shape, count, init, tags: { ...DEFAULT_TAGS, ...tags }, index });
    return index;
  }

  /** All parameters in the order of declaration. Fixes the layout at the first call. */
  get list(): readonly Parameter[] {
    if (this.sealed) return this.sealed;
    const bases = new Map<number, number>();
    let at = 0;
    const place = (chosen: (tags: Tags) => boolean) => {
      for (const p of this.declared.filter(({ tags }) => chosen(tags))) {
        bases.set(p.index, at);
        at += Math.ceil(p.count / ALIGN) * ALIGN;
      }
      return at;
    };
    this.masterEnd = place((tags) => tags.master && !tags.frozen);
    this.trainableEnd = place((tags) => !tags.master && !tags.frozen);
    this.end = place((tags) => tags.frozen);
    this.sealed = this.declared.map((p) => ({ ...p, base: bases.get(p.index)! }));
    return this.sealed;
  }

  at(index: number): Parameter {
    const p = this.list[index];
    if (!p) throw new Failure({ what: `parameter number ${index}`, why: 'does not exist' });
    return p;
  }

  find(name: string): Parameter | undefined {
    return this.list.find((p) => p.name === name);
  }

  /** Number of trainable elements, as the reference counts parameters. */
  get trainable(): number {
    return this.list.reduce((sum, p) => sum + (p.tags.frozen ? 0 : p.count), 0);
  }
}

/** Handle of a declared parameter: its number. */
export type Handle = number;

/** Parameters as tensors of one trace. */
export class Weights {
  private readonly bound = new Map<Handle, Tensor>();

  constructor(
    readonly trace: Trace,
    readonly parameters: Parameters,
    /** False for plans without a backward part. */
    private readonly training: boolean,
    /** Spaces of the two forms; others where a plan reads the weights of a second network. */
    private readonly spaces = { weight: 'weight', master: 'master' },
  ) {}

  /** The parameter as kernels compute with it: act in space 'weight'; float32 in 'master' where tagged so. */
  use(handle: Handle): Tensor {
    const known = this.bound.get(handle);
    if (known) return known;
    const p = this.parameters.at(handle);
    const parameter = this.training && !p.tags.frozen;
    const { weight, master } = this.spaces;
    const [space, elem] = p.tags.master ? ([master, 'real'] as const) : ([weight, 'act'] as const);
    const tensor = this.trace.fixed(space, p.name, p.shape, p.base, { elem, parameter });
    this.bound.set(handle, tensor);
    return tensor;
  }

  maybe(handle: Handle | null): Tensor | null {
    return handle === null ? null : this.use(handle);
  }
}
