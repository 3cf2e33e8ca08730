// Reads numpy's .npz archives (savez, savez_compressed): arrays of numbers by name, as float64.
import { Failure } from './failure.ts';
import { Source } from './source.ts';
import { readEntry, readZip } from './zip.ts';

export interface NpyArray {
  readonly shape: readonly number[];
  /** Row-major. */
  readonly values: Float64Array;
}

/** Largest array that is read: 2 GiB. */
const MOST_BYTES = 2 ** 31;
const MAGIC = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59];

/** The arrays of these names; one that is missing or not of floating-point numbers is a Failure. */
export function readNpz<Name extends string>(path: string, names: readonly Name[]): Record<Name, NpyArray> {
  using source = Source.open(path);
  const entries = readZip(source, { deflated: true });
  const found = {} as Record<Name, NpyArray>;
  for (const name of names) {
    const entry = entries.get(`${name}.npy`);
    if (!entry) {
      const others = [...entries.keys()].map((key) => key.replace(/\.npy$/, '')).join(', ');
      throw new Failure({ what: path, why: `has no array "${name}" (it holds ${others || 'nothing'})` });
    }
    found[name] = parseNpy(readEntry(source, entry, MOST_BYTES), `${path}: ${name}`);
  }
  return found;
}

/** One .npy file: format versions 1 to 3, float32 or float64, little-endian, C or Fortran order. */
export function parseNpy(bytes: Uint8Array<ArrayBuffer>, what: string): NpyArray {
  const refuse = (why: string) => new Failure({ what, why });
  if (bytes.length < 12 || MAGIC.some((b, i) => bytes[i] !== b)) throw refuse('is no array of numpy (.npy)');
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const wide = bytes[6]! >= 2;
  const begin = wide ? 12 : 10;
  const end = begin + (wide ? view.getUint32(8, true) : view.getUint16(8, true));
  if (end > bytes.length) throw refuse('its header is cut off');
  const header = new TextDecoder('latin1').decode(bytes.subarray(begin, end));
  const descr = /'descr':\s*'([^']*)'/.exec(header)?.[1];
  const fortran = /'fortran_order':\s*(True|False)/.exec(header)?.[1];
  const dims = /'shape':\s*\(([\d,\s]*)\)/.exec(header)?.[1];
  if (descr === undefined || fortran === undefined || dims === undefined)
    throw refuse('its header is broken');
  const size = descr === '<f8' ? 8 : descr === '<f4' ? 4 : 0;
  if (size === 0) throw refuse(`holds numbers of type ${descr}, not little-endian float32 or float64`);
  const shape = dims
    .split(',')
    .filter((part) => part.trim())
    .map(Number);
  const count = shape.reduce((a, b) => a * b, 1);
  if (bytes.length - end !== count * size) {
    throw refuse(`has ${bytes.length - end} bytes for ${count} numbers of ${size}`);
  }
  const raw = bytes.slice(end).buffer;
  const values = size === 8 ? new Float64Array(raw) : Float64Array.from(new Float32Array(raw));
  return { shape, values: fortran === 'True' ? rowMajor(values, shape, refuse) : values };
}

function rowMajor(
  values: Float64Array,
  shape: readonly number[],
  refuse: (why: string) => Failure,
): Float64Array {
  if (shape.length < 2) return values;
  const [rows = 0, columns = 0] = shape;
  if (shape.length > 2) throw refuse('has more than two axes in Fortran order');
  return values.map((_, i) => values[(i % columns) * rows + Math.floor(i / columns)]!);
}
