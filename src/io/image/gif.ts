// The first picture of a GIF file as Pillow's convert('RGB') gives it: no colour is transparent, and what the
// picture leaves free of the screen has its transparent colour, or else the first. Own code because the
// drawing library shows neither colour, nor that a picture is cut off. GIF89a specification, sections 18 to
// 25 and appendix F.
import { checkSize, ImageFailure, type Limits, type Rgb } from './rgb.ts';

const EXTENSION = 0x21;
const CONTROL = 0xf9;
const PICTURE = 0x2c;
const CODES = 4096;

/** Where things stand in the file: the first picture and the extension that belongs to it. */
interface Layout {
  readonly width: number;
  readonly height: number;
  readonly left: number;
  readonly top: number;
  readonly columns: number;
  readonly rows: number;
  readonly interlaced: boolean;
  /** RGB of 256 colours. */
  readonly palette: Uint8Array;
  /** Index of the colour around the picture. */
  readonly around: number;
  /** Bits of the smallest code, then the coded data without its lengths. */
  readonly bits: number;
  readonly codes: Uint8Array;
}

/** ImageFailure for a file that is damaged or beyond the limits. */
export function decodeGif(gif: Uint8Array, name: string, limits: Limits): Rgb {
  const layout = layoutOf(gif, name, limits);
  const { width, height, columns, rows, palette, around } = layout;
  const indices = new Uint8Array(columns * rows);
  const done = unpack(layout.codes, layout.bits, indices);
  if (done < indices.length) {
    throw new ImageFailure(name, 'damaged', `its pixels end after ${done} of ${indices.length}`);
  }
  const data = new Uint8Array(width * height * 3);
  if (columns < width || rows < height) {
    for (let i = 0; i < data.length; i++) data[i] = palette[around * 3 + (i % 3)]!;
  }
  for (const [row, y] of rowOrder(rows, layout.interlaced).entries()) {
    let to = ((layout.top + y) * width + layout.left) * 3;
    for (let i = row * columns; i < (row + 1) * columns; i++, to += 3) {
      const from = indices[i]! * 3;
      data[to] = palette[from]!;
      data[to + 1] = palette[from + 1]!;
      data[to + 2] = palette[from + 2]!;
    }
  }
  return { width, height, data };
}

function layoutOf(gif: Uint8Array, name: string, limits: Limits): Layout {
  const file = Buffer.from(gif.buffer, gif.byteOffset, gif.length);
  const cutOff = () => new ImageFailure(name, 'damaged', `the file is cut off at byte ${file.length}`);
  const byte = (at: number) => file[at] ?? fail(cutOff());
  const table = (flags: number) => (flags & 0x80 ? 3 * 2 ** ((flags & 7) + 1) : 0);
  const flags = byte(10);
  let around = 0;
  for (let at = 13 + table(flags); ; ) {
    const kind = byte(at);
    if (kind === EXTENSION) {
      if (byte(at + 1) === CONTROL && byte(at + 2) >= 4) around = byte(at + 3) & 1 ? byte(at + 6) : 0;
      at = blocksOf(file, at + 2, cutOff).end;
      continue;
    }
    if (kind !== PICTURE) throw new ImageFailure(name, 'damaged', `there is no picture at byte ${at}`);
    if (at + 10 > file.length) throw cutOff();
    const [left, top, columns, rows] = [1, 3, 5, 7].map((i) => file.readUInt16LE(at + i));
    const own = byte(at + 9);
    const colours = own & 0x80 ? at + 10 : 13;
    const length = own & 0x80 ? table(own) : table(flags);
    const start = at + 10 + table(own);
    checkSize(name, columns!, rows!, limits);
    const width = Math.max(left! + columns!, file.readUInt16LE(6));
    const height = Math.max(top! + rows!, file.readUInt16LE(8));
    checkSize(name, width, height, limits);
    const palette = Uint8Array.from({ length: 768 }, (_, i) => Math.floor(i / 3));
    palette.set(file.subarray(colours, colours + length));
    const bits = byte(start);
    if (bits < 1 || bits > 11) throw new ImageFailure(name, 'damaged', `its codes have ${bits} bits`);
    const codes = blocksOf(file, start + 1, null).bytes;
    const place = { left: left!, top: top!, columns: columns!, rows: rows!, interlaced: (own & 0x40) !== 0 };
    return { width, height, ...place, palette, around, bits, codes };
  }
}

function fail(error: Error): never {
  throw error;
}

/** The sub-blocks at a place, joined, and where they end; without `cutOff` the end of the file ends them. */
function blocksOf(file: Buffer, at: number, cutOff: (() => Error) | null): { bytes: Buffer; end: number } {
  const parts: Buffer[] = [];
  let place = at;
  for (;;) {
    const length = file[place];
    if (length === 0) break;
    if (length === undefined) {
      if (cutOff) throw cutOff();
      break;
    }
    parts.push(file.subarray(place + 1, place + 1 + length));
    place += 1 + length;
  }
  return { bytes: Buffer.concat(parts), end: place + 1 };
}

/** The rows of the picture in the order of the file. */
function rowOrder(rows: number, interlaced: boolean): number[] {
  const all = Array.from({ length: rows }, (_, y) => y);
  if (!interlaced) return all;
  const pass = (first: number, step: number) => all.filter((y) => y % step === first);
  return [...pass(0, 8), ...pass(4, 8), ...pass(2, 4), ...pass(1, 2)];
}

/** LZW with codes of variable width; returns how many indices the data holds, at most those of `out`. */
function unpack(data: Uint8Array, bits: number, out: Uint8Array): number {
  const clear = 1 << bits;
  const prefix = new Uint16Array(CODES);
  const last = new Uint8Array(CODES);
  const lengths = new Uint16Array(CODES);
  for (let code = 0; code < clear; code++) {
    last[code] = code;
    lengths[code] = 1;
  }
  let [width, next, before, done] = [bits + 1, clear + 2, -1, 0];
  let [held, count] = [0, 0];
  for (let at = 0; done < out.length; ) {
    while (count < width && at < data.length) {
      held |= data[at++]! << count;
      count += 8;
    }
    if (count < width) return done;
    const code = held & ((1 << width) - 1);
    held >>>= width;
    count -= width;
    if (code === clear) {
      [width, next, before] = [bits + 1, clear + 2, -1];
      continue;
    }
    if (code === clear + 1 || code > next || (before < 0 && code >= clear)) return done;
    if (code === next && next >= CODES) return done;
    // The code that is just being made is the one before with its own first index behind it.
    const isNew = code === next;
    const known = isNew ? before : code;
    const length = lengths[known]!;
    const room = Math.min(length, out.length - done);
    let step = known;
    for (let i = length - 1; i >= 0; i--) {
      if (i < room) out[done + i] = last[step]!;
      step = prefix[step]!;
    }
    const first = out[done]!;
    done += room;
    if (isNew && done < out.length) out[done++] = first;
    if (before >= 0 && next < CODES) {
      prefix[next] = before;
      last[next] = first;
      lengths[next] = lengths[before]! + 1;
      next++;
      if (next === 1 << width && width < 12) width++;
    }
    before = code;
  }
  return done;
}
