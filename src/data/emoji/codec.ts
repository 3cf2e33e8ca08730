// Picture coder of the emoji pack: lossless or near-lossless, readable without any image library.
// A pixel is predicted from its neighbours (median edge detector of JPEG-LS, T.87 A.4.1), red and blue also
// from green; the error is coded by static range coding (rANS, Duda 2013) with one table for each context.
// Pixels in evenly coloured surroundings cost one flag. Parts: contexts, tables, encoder, decoder.
import { Failure } from '../../io/failure.ts';

const BITS = 12; // frequencies of a table add up to 2^12
const TOTAL = 1 << BITS;
const STATE_LOW = 1 << 23; // the coder's state stays in [2^23, 2^31): int32 arithmetic throughout

const ACTIVITY = 10; // classes of local contrast
const RESIDUAL = 4; // classes of the error just coded in another channel of this pixel
const FLAG_CONTEXTS = 4;
export const CONTEXTS = FLAG_CONTEXTS + 3 * ACTIVITY * RESIDUAL;
const SYMBOLS = 256;

const activityClass = new Uint8Array(1024);
for (let d = 0; d < 1024; d++) {
  activityClass[d] = [0, 2, 5, 9, 15, 24, 38, 64, 120].filter((edge) => d > edge).length;
}
/** |error| in steps -> 0..3 */
const residualClass = new Uint8Array(256);
for (let e = 0; e < 256; e++) residualClass[e] = e === 0 ? 0 : e <= 2 ? 1 : e <= 7 ? 2 : 3;

/** Calls `visit` for each coded symbol. `symbolAt(context)` gives the symbol when decoding. */
interface Coder {
  code(context: number, symbol: number): number;
}

/**
 * Walks `rgb` [size, size, 3] in raster order. When encoding (`source` given), symbols come from `source` and
 * `rgb` receives what a decoder will see; when decoding, symbols come from the coder.
 * near: largest error of a channel value; 0 is lossless.
 */
function walk(
  rgb: Uint8Array,
  size: number,
  near: number,
  source: Uint8Array | undefined,
  coder: Coder,
): void {
  const step = 2 * near + 1;
  const stride = size * 3;
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      const at = y * stride + x * 3;
      const west = x > 0 ? at - 3 : y > 0 ? at - stride : -1;
      const north = y > 0 ? at - stride : west;
      const northWest = x > 0 && y > 0 ? at - stride - 3 : north;
      const northEast = x < size - 1 && y > 0 ? at - stride + 3 : north;
      if (west < 0) {
        for (let c = 0; c < 3; c++) rgb[at + c] = coder.code(CONTEXTS - 1, source ? source[at + c]! : 0);
        continue;
      }
      if (
        sameColour(rgb, west, north) &&
        sameColour(rgb, west, northWest) &&
        sameColour(rgb, west, northEast)
      ) {
        const white = rgb[west] === 255 && rgb[west + 1] === 255 && rgb[west + 2] === 255;
        const further =
          x > 1 && y > 1 && sameColour(rgb, west, at - 6) && sameColour(rgb, west, at - 2 * stride);
        const flat = source === undefined || closeColour(source, at, rgb, west, near) ? 0 : 1;
        if (coder.code((white ? 2 : 0) + (further ? 1 : 0), flat) === 0) {
          rgb[at] = rgb[west]!;
          rgb[at + 1] = rgb[west + 1]!;
          rgb[at + 2] = rgb[west + 2]!;
          continue;
        }
      }
      let green = 0;
      let before = 0;
      let baseW = 0;
      let baseN = 0;
      let baseNW = 0;
      let baseNE = 0;
      for (let channel = 0; channel < 3; channel++) {
        const c = channel === 0 ? 1 : channel === 1 ? 0 : 2; // green, red, blue
        const w = rgb[west + c]! - baseW;
        const n = rgb[north + c]! - baseN;
        const nw = rgb[northWest + c]! - baseNW;
        const ne = rgb[northEast + c]! - baseNE;
        let predicted = n + w - nw;
        const low = Math.min(n, w);
        const high = Math.max(n, w);
        if (nw >= high) predicted = low;
        else if (nw <= low) predicted = high;
        predicted += green;
        if (predicted < 0) predicted = 0;
        else if (predicted > 255) predicted = 255;
        const contrast = Math.abs(w - nw) + Math.abs(nw - n) + Math.abs(n - ne);
        const context =
          FLAG_CONTEXTS +
          (channel * ACTIVITY + activityClass[Math.min(contrast, 1023)]!) * RESIDUAL +
          residualClass[before]!;
        let symbol = 0;
        if (source !== undefined) {
          const error = source[at + c]! - predicted;
          const steps = error >= 0 ? Math.trunc((error + near) / step) : -Math.trunc((near - error) / step);
          symbol = steps >= 0 ? steps * 2 : -steps * 2 - 1;
          if (near === 0) symbol = foldByte(error);
        }
        symbol = coder.code(context, symbol);
        const steps = symbol & 1 ? -((symbol + 1) >> 1) : symbol >> 1;
        let value = predicted + steps * step;
        if (near === 0) value &= 255;
        else if (value < 0) value = 0;
        else if (value > 255) value = 255;
        rgb[at + c] = value;
        const size = Math.abs(steps);
        before = channel === 0 ? size : Math.max(before, size);
        if (channel === 0) {
          green = value;
          baseW = rgb[west + 1]!;
          baseN = rgb[north + 1]!;
          baseNW = rgb[northWest + 1]!;
          baseNE = rgb[northEast + 1]!;
        }
      }
    }
  }
}

/** Error modulo 256 in -128..127, folded to 0, -1, 1, -2, 2 ... -> 0, 1, 2, 3, 4 ... */
function foldByte(error: number): number {
  const wrapped = ((error + 128) & 255) - 128;
  return wrapped >= 0 ? wrapped * 2 : -wrapped * 2 - 1;
}

function sameColour(rgb: Uint8Array, a: number, b: number): boolean {
  return rgb[a] === rgb[b] && rgb[a + 1] === rgb[b + 1] && rgb[a + 2] === rgb[b + 2];
}

function closeColour(source: Uint8Array, at: number, rgb: Uint8Array, like: number, near: number): boolean {
  for (let c = 0; c < 3; c++) if (Math.abs(source[at + c]! - rgb[like + c]!) > near) return false;
  return true;
}

/**
 * Tables of one group of pictures: how often each symbol is expected in each context, [CONTEXTS, 256], sum
 * 4096.
 */
export class Tables {
  readonly start = new Uint16Array(CONTEXTS * (SYMBOLS + 1));
  readonly symbolOf = new Uint8Array(CONTEXTS * TOTAL);

  constructor(readonly frequency: Uint16Array) {
    for (let context = 0; context < CONTEXTS; context++) {
      let sum = 0;
      for (let symbol = 0; symbol < SYMBOLS; symbol++) {
        this.start[context * (SYMBOLS + 1) + symbol] = sum;
        const count = frequency[context * SYMBOLS + symbol]!;
        this.symbolOf.fill(symbol, context * TOTAL + sum, context * TOTAL + Math.min(sum + count, TOTAL));
        sum += count;
      }
      if (sum !== TOTAL) {
        throw new Failure({ what: 'emoji pack', why: `table ${context} adds up to ${sum}, not ${TOTAL}` });
      }
      this.start[context * (SYMBOLS + 1) + SYMBOLS] = sum;
    }
  }

  /** Tables from counts [CONTEXTS, 256]: scaled to 4096, every symbol that occurs keeps at least 1. */
  static fromCounts(counts: Float64Array): Tables {
    const frequency = new Uint16Array(CONTEXTS * SYMBOLS);
    for (let context = 0; context < CONTEXTS; context++) {
      const row = counts.subarray(context * SYMBOLS, (context + 1) * SYMBOLS);
      const sum = row.reduce((a, b) => a + b, 0);
      const out = frequency.subarray(context * SYMBOLS, (context + 1) * SYMBOLS);
      if (sum === 0) {
        out.fill(TOTAL / SYMBOLS);
        continue;
      }
      for (let s = 0; s < SYMBOLS; s++)
        out[s] = row[s] === 0 ? 0 : Math.max(1, Math.round((row[s]! / sum) * TOTAL));
      let excess = out.reduce((a, b) => a + b, 0) - TOTAL;
      while (excess !== 0) {
        const largest = out.indexOf(Math.max(...out)); // absorbs the rounding where it costs least
        const change = excess > 0 ? Math.min(excess, out[largest]! >> 1) : excess;
        out[largest] = out[largest]! - change;
        excess -= change;
      }
    }
    return new Tables(frequency);
  }
}

/**
 * Adds the symbols of `source` [size, size, 3] to counts [CONTEXTS, 256] and returns what a decoder will see.
 */
export function countPicture(
  source: Uint8Array,
  size: number,
  near: number,
  counts: Float64Array,
): Uint8Array {
  const seen = new Uint8Array(source.length);
  walk(seen, size, near, source, {
    code: (context, symbol) => {
      counts[context * SYMBOLS + symbol]!++;
      return symbol;
    },
  });
  return seen;
}

/** Codes `source` [size, size, 3]; every symbol of it must have been counted into `tables`. */
export function encodePicture(source: Uint8Array, size: number, near: number, tables: Tables): Uint8Array {
  const coded: number[] = [];
  walk(new Uint8Array(source.length), size, near, source, {
    code: (context, symbol) => {
      coded.push(context * SYMBOLS + symbol);
      return symbol;
    },
  });
  const reversed: number[] = [];
  let state = STATE_LOW;
  for (let i = coded.length - 1; i >= 0; i--) {
    const frequency = tables.frequency[coded[i]!]!;
    const start = tables.start[(coded[i]! >> 8) * (SYMBOLS + 1) + (coded[i]! & 255)]!;
    const limit = (STATE_LOW / TOTAL) * 256 * frequency;
    while (state >= limit) {
      reversed.push(state & 255);
      state >>>= 8;
    }
    state = Math.floor(state / frequency) * TOTAL + (state % frequency) + start;
  }
  for (let i = 0; i < 4; i++) {
    reversed.push(state & 255);
    state >>>= 8;
  }
  return Uint8Array.from(reversed.reverse());
}

/** The decoding side of the coder, over bytes[at, to). */
class Decoder implements Coder {
  state = 0;

  constructor(
    readonly bytes: Uint8Array,
    public at: number,
    readonly to: number,
    readonly tables: Tables,
  ) {
    for (let i = 0; i < 4; i++) this.state = (this.state << 8) | bytes[this.at++]!;
  }

  code(context: number): number {
    const { frequency, start, symbolOf } = this.tables;
    const slot = this.state & (TOTAL - 1);
    const symbol = symbolOf[context * TOTAL + slot]!;
    const first = start[context * (SYMBOLS + 1) + symbol]!;
    let state = frequency[context * SYMBOLS + symbol]! * (this.state >>> BITS) + slot - first;
    while (state < STATE_LOW && this.at < this.to) state = (state << 8) | this.bytes[this.at++]!;
    this.state = state;
    return symbol;
  }
}

/** Decodes a picture that lies at bytes[from, to) into rgb [size, size, 3]. */
export function decodePicture(
  bytes: Uint8Array,
  from: number,
  to: number,
  size: number,
  near: number,
  tables: Tables,
  rgb: Uint8Array,
): void {
  const decoder = new Decoder(bytes, from, to, tables);
  walk(rgb, size, near, undefined, decoder);
  if (decoder.at !== to || decoder.state !== STATE_LOW) {
    throw new Failure({ what: 'emoji pack', why: 'a picture is damaged', fix: 'Build the pack again' });
  }
}
