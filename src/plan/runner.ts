// Runs one plan on a backend: binds regions, sets named inputs and reads named outputs in the host's numbers.
import type { Backend, Elem, Loaded, Numbers, Region } from '../backend/backend.ts';
import { Failure } from '../io/failure.ts';
import type { Plan, Port } from './plan.ts';
import { product } from './tensor.ts';

export class Runner {
  private readonly loaded: Loaded;
  private readonly owned: Region[] = [];
  readonly regions: Readonly<Record<string, Region>>;

  /** Regions that the caller does not give (arena, input) are made here and freed by `free`. */
  constructor(
    readonly backend: Backend,
    readonly plan: Plan,
    shared: Readonly<Record<string, Region>> = {},
  ) {
    const regions: Record<string, Region> = { ...shared };
    for (const [space, bytes] of Object.entries(plan.program.spaceBytes)) {
      if (regions[space]) continue;
      const region = backend.alloc(bytes);
      regions[space] = region;
      this.owned.push(region);
    }
    this.regions = regions;
    this.loaded = backend.load(plan.program, regions);
  }

  /** Writes an input; numbers are converted to the backend's element type. */
  set(name: string, values: ArrayLike<number>): void {
    const port = this.port(this.plan.inputs, 'input', name);
    if (values.length !== product(port.shape)) {
      throw new Failure({ what: `input ${name}`, why: `got ${values.length} values for [${port.shape}]` });
    }
    const data =
      isNumbers(values) && fits(this.backend, port.elem, values) ? values : this.numbers(port.elem, values);
    this.backend.write(this.region(port), port.offset, data);
  }

  /** Reads an output (or an input) as it is now. */
  get(name: string): Numbers {
    const port = this.plan.outputs.get(name) ?? this.port(this.plan.inputs, 'output', name);
    const into = this.numbers(port.elem, product(port.shape));
    this.backend.read(this.region(port), port.offset, into);
    return into;
  }

  run(): void {
    this.loaded.run();
  }

  /** Nanoseconds per node of one run. */
  runTimed(): Float64Array {
    return this.loaded.runTimed();
  }

  free(): void {
    for (const region of this.owned) region.free();
  }

  private port(ports: ReadonlyMap<string, Port>, kind: string, name: string): Port {
    const port = ports.get(name);
    if (!port) throw new Failure({ what: `${kind} ${name}`, why: `plan ${this.plan.name} has none` });
    return port;
  }

  private region(port: Port): Region {
    return this.regions[port.space]!;
  }

  private numbers(elem: Elem, from: ArrayLike<number> | number): Numbers {
    return hostNumbers(this.backend, elem, from);
  }
}

/** An array of the type that a backend keeps an element kind in, of a length or with given values. */
export function hostNumbers(backend: Backend, elem: Elem, from: ArrayLike<number> | number): Numbers {
  const Kind = elem === 'i32' ? Int32Array : backend.elemBytes[elem] === 8 ? Float64Array : Float32Array;
  return typeof from === 'number' ? new Kind(from) : Kind.from(from);
}

function isNumbers(values: ArrayLike<number>): values is Numbers {
  return values instanceof Float32Array || values instanceof Float64Array || values instanceof Int32Array;
}

function fits(backend: Backend, elem: Elem, values: Numbers): boolean {
  return hostNumbers(backend, elem, 0).constructor === values.constructor;
}
