// Runs one plan on a backend: binds regions, sets named inputs and reads named outputs in the host's numbers.
import type { Backend, Elem, Loaded, Numbers, Region } from '../backend/backend.ts';
import { bf16ToFloat32, float32ToBf16 } from '../io/dtype.ts';
import { Failure } from '../io/failure.ts';
import type { Plan, Port } from './plan.ts';
import { product } from './tensor.ts';

/** Regions that no other plan shares. */
const OWN = new Set(['arena', 'input']);

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
      if (!OWN.has(space))
        throw new Failure({ what: `plan ${plan.name}`, why: `region ${space} is not bound` });
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
    this.backend.write(this.region(port), port.offset, encodeNumbers(this.backend, port.elem, values));
  }

  /** Reads an output (or an input) as it is now. */
  get(name: string): Numbers {
    const port = this.plan.outputs.get(name) ?? this.port(this.plan.inputs, 'output', name);
    return readNumbers(this.backend, this.region(port), port.offset, port.elem, product(port.shape));
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
}

/**
 * Host numbers as a backend keeps an element kind: converted where they are of another type. Where it keeps
 * bfloat16, a Uint16Array holds such bits already.
 */
export function encodeNumbers(backend: Backend, elem: Elem, values: ArrayLike<number>): Numbers {
  const bytes = backend.elemBytes[elem];
  if (bytes === 2) {
    if (values instanceof Uint16Array) return values;
    const bits = new Uint16Array(values.length);
    float32ToBf16(values instanceof Float32Array ? values : Float32Array.from(values), bits);
    return bits;
  }
  const Kind = elem === 'i32' ? Int32Array : bytes === 8 ? Float64Array : Float32Array;
  return values instanceof Kind ? values : Kind.from(values);
}

/** Reads `count` numbers from a region; waits until earlier runs are done. The result is the caller's. */
export function readNumbers(
  backend: Backend,
  region: Region,
  byteOffset: number,
  elem: Elem,
  count: number,
): Float32Array | Float64Array | Int32Array {
  const bytes = backend.elemBytes[elem];
  const numbers = new (elem === 'i32' ? Int32Array : bytes === 8 ? Float64Array : Float32Array)(count);
  if (bytes !== 2) {
    backend.read(region, byteOffset, numbers);
    return numbers;
  }
  const bits = new Uint16Array(count);
  backend.read(region, byteOffset, bits);
  const values = new Float32Array(count);
  bf16ToFloat32(bits, values);
  return values;
}
