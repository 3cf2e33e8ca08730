// Memory that C and JavaScript share, and the only file that asks for the address of an array.
//
// Rules. The address of a small typed array goes stale once its function is hot, because the engine moves its
// storage; the address of a view over an explicit ArrayBuffer does not. And an address does not keep its
// array alive. So: out-parameters and lists are views over an explicit ArrayBuffer, and whoever hands an
// address to C keeps the owner (Pinned, NativeMemory) in a field for as long as C may use it.

import { CString, type Pointer, ptr, toArrayBuffer } from 'bun:ffi';
import { EXIT, Failure } from '../src/io/failure.ts';

/** Bytes that JavaScript owns and C may keep the address of while this object is held. */
export class Pinned {
  readonly buffer: ArrayBuffer;
  readonly bytes: Uint8Array;
  /** Address of the first byte; valid as long as this object is. */
  readonly address: number;

  constructor(byteLength: number) {
    this.buffer = new ArrayBuffer(byteLength);
    this.bytes = new Uint8Array(this.buffer);
    this.address = byteLength > 0 ? ptr(this.bytes) : 0;
  }
}

/** A text that C writes: `fill` gets the buffer and its size, and returns the text's full length in bytes. */
export function textFrom(fill: (out: Uint8Array, size: number) => number, size = 4096): string {
  const out = new Uint8Array(new ArrayBuffer(size));
  const length = fill(out, size);
  return new TextDecoder().decode(out.subarray(0, Math.min(length, size - 1)));
}

/** The text of a library at an address: UTF-8 up to a zero. Empty for a null pointer. */
export function textAt(address: number): string {
  return address === 0 ? '' : new CString(address as Pointer).toString();
}

/** The address of a caller's array, which must be held for as long as C may use it. */
export function addressOf(array: Uint8Array): number {
  // Asking for the buffer gives the array a storage that the engine does not move any more.
  return array.byteLength > 0 && array.buffer.byteLength > 0 ? ptr(array) : 0;
}

/** Bytes of C at an address, not copied: valid only as long as C keeps them. */
export function bytesAt(address: number, byteLength: number): Uint8Array {
  if (byteLength === 0) return new Uint8Array(0);
  return new Uint8Array(toArrayBuffer(address as Pointer, 0, byteLength));
}

/** A text for C: its UTF-8 bytes and a closing zero, over an explicit ArrayBuffer. */
export function cString(text: string): Uint8Array {
  const bytes = new TextEncoder().encode(text);
  const out = new Uint8Array(new ArrayBuffer(bytes.length + 1));
  out.set(bytes);
  return out;
}

/** Memory that the native library owns: zeroed, freed by free() or at the end of a `using` scope. */
export class NativeMemory {
  readonly byteLength: number;
  readonly #free: (address: number, bytes: number) => void;
  #address: number;

  constructor(address: number, byteLength: number, free: (address: number, bytes: number) => void) {
    this.#address = address;
    this.byteLength = byteLength;
    this.#free = free;
  }

  /** Address of the first byte. Throws once the memory is freed. */
  get address(): number {
    if (this.#address === 0) {
      throw new Failure({ what: 'native memory', why: 'it was used after it was freed', code: EXIT.failed });
    }
    return this.#address;
  }

  /** Views of a part: offset in bytes, count in elements. Make one view a tensor: a view over 4 GiB fails. */
  f32(offset = 0, count = (this.byteLength - offset) >> 2): Float32Array {
    return new Float32Array(this.#part(offset, count * 4));
  }
  f64(offset = 0, count = (this.byteLength - offset) >> 3): Float64Array {
    return new Float64Array(this.#part(offset, count * 8));
  }
  i32(offset = 0, count = (this.byteLength - offset) >> 2): Int32Array {
    return new Int32Array(this.#part(offset, count * 4));
  }
  u8(offset = 0, count = this.byteLength - offset): Uint8Array {
    return new Uint8Array(this.#part(offset, count));
  }

  /** Gives the memory back. Views made before must not be touched afterwards. A second call does nothing. */
  free(): void {
    if (this.#address === 0) return;
    this.#free(this.#address, this.byteLength);
    this.#address = 0;
  }

  [Symbol.dispose](): void {
    this.free();
  }

  #part(offset: number, bytes: number): ArrayBuffer {
    if (!Number.isSafeInteger(offset) || !Number.isSafeInteger(bytes) || offset < 0 || bytes < 0) {
      throw new RangeError(`a view of ${bytes} bytes at ${offset} is not possible`);
    }
    if (offset + bytes > this.byteLength) {
      throw new RangeError(`a view of ${bytes} bytes at ${offset} leaves the ${this.byteLength} bytes`);
    }
    if (bytes === 0) return new ArrayBuffer(0);
    return toArrayBuffer(this.address as Pointer, offset, bytes);
  }
}
