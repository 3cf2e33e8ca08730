// What the server and its engine say to each other: frames of a length (u32, little endian) and one
// MessagePack map. 1. the messages   2. frames out   3. frames in
import { Packr } from 'msgpackr';
import { Failure } from '../io/failure.ts';
import type { PictureSettings } from '../sample/picture-file.ts';

// The messages ---------------------------------------------------------------------------------------

/** One picture that the engine is to draw. */
export interface PictureOrder {
  readonly id: number;
  readonly settings: PictureSettings;
  /** By what factor its pixels are enlarged. */
  readonly scale: number;
  /** Estimates to send on the way. */
  readonly previews: number;
}

/** To the engine. It draws one batch at a time, of pictures that fit together; `cancel` ends it early. */
export type ToEngine =
  | { readonly kind: 'draw'; readonly pictures: readonly PictureOrder[] }
  | { readonly kind: 'cancel' };

/** What the engine is, told once it can draw. */
export interface EngineFacts {
  readonly model: string;
  readonly device: string;
  /** Pixels along one side of a picture. */
  readonly side: number;
  /** The most pictures in a batch. */
  readonly batch: number;
  /** What the model's recipe says where a request says nothing. */
  readonly defaults: Pick<PictureSettings, 'steps' | 'cfg_scale' | 'sampler'>;
}

/** A picture on its way: the estimate after `step` steps, as a PNG without texts. */
export interface Preview {
  readonly kind: 'preview';
  readonly id: number;
  readonly step: number;
  readonly steps: number;
  readonly png: Uint8Array;
}

/** A finished picture: the file that `sample` would write. */
export interface Drawn {
  readonly kind: 'picture';
  readonly id: number;
  readonly png: Uint8Array;
  readonly truncated: boolean;
  /** Its share of the time of its batch. */
  readonly seconds: number;
}

/** A picture that could not be made. */
export interface Undrawn {
  readonly kind: 'failed';
  readonly id: number;
  readonly error: string;
}

/** From the engine. `unfit`: it cannot start, and ends; `idle`: the batch is over, drawn or not. */
export type FromEngine =
  | ({ readonly kind: 'ready' } & EngineFacts)
  | { readonly kind: 'unfit'; readonly error: string; readonly code: number }
  | Preview
  | Drawn
  | Undrawn
  | { readonly kind: 'idle' };

// Frames out -----------------------------------------------------------------------------------------

/** More than any picture needs; a longer frame is damage. */
const MAX_BYTES = 2 ** 28;

const packr = new Packr({ useRecords: false });

/** A message as a frame. */
export function frame(message: ToEngine | FromEngine): Uint8Array<ArrayBuffer> {
  const body = packr.pack(message);
  const bytes = new Uint8Array(4 + body.length);
  new DataView(bytes.buffer).setUint32(0, body.length, true);
  bytes.set(body, 4);
  return bytes;
}

// Frames in ------------------------------------------------------------------------------------------

/**
 * The messages of a byte stream. Both ends are the same program, so their form is taken on trust; a frame
 * that is cut off, too long or no message at all is a Failure.
 */
export async function* readFrames<M extends ToEngine | FromEngine>(
  source: AsyncIterable<Uint8Array>,
): AsyncGenerator<M> {
  let waiting: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of source) {
    waiting.push(chunk.slice()); // streams may use the buffer of a chunk again for the next one
    length += chunk.length;
    if (length < needed(waiting)) continue;
    let bytes: Uint8Array = Buffer.concat(waiting);
    while (bytes.length >= needed([bytes])) {
      const end = needed([bytes]);
      yield decode<M>(bytes.subarray(4, end));
      bytes = bytes.subarray(end);
    }
    waiting = [bytes];
    length = bytes.length;
  }
  if (length > 0) throw damaged(`ends inside a frame, after ${length} bytes of it`);
}

/** Bytes up to the end of the first frame, as far as can be told. */
function needed(pieces: readonly Uint8Array[]): number {
  const head = Buffer.concat(pieces.slice(0, 4).map((piece) => piece.subarray(0, 4)));
  if (head.length < 4) return 4;
  const body = head.readUInt32LE(0);
  if (body > MAX_BYTES) throw damaged(`a frame of ${body} bytes`);
  return 4 + body;
}

function decode<M>(body: Uint8Array): M {
  let value: unknown;
  try {
    value = packr.unpack(body);
  } catch {} // which leaves nothing
  if (typeof value === 'object' && value !== null && 'kind' in value) return value as M;
  throw damaged('a frame that is no message');
}

function damaged(why: string): Failure {
  return new Failure({ what: 'the pipe of the engine', why, fix: 'Start the server again' });
}
