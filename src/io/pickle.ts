// Reads pickles of protocols 2 to 5 as data. A pickle is a program: this machine has its stack and its memo
// and nothing else. A name of Python's is looked up in the caller's list and stays a name; a call of it is a
// function of the caller's that makes an inert value; what is not on the list is refused by its name.

import type { ByteCursor } from './byte-cursor.ts';
import type { Failure } from './failure.ts';

/** A pickle holds no tensors, only words about them; more than this is no checkpoint. */
const MAX_BYTES = 64 * 2 ** 20;
const MAX_OPERATIONS = 2 ** 23;
const MAX_MEMO = 2 ** 22;
const MAX_STACK = 2 ** 16;
/** Open marks; Python's own unpickler gives up at about as many. */
const MAX_DEPTH = 1000;
const MAX_NAME = 1000;
const MAX_INTEGER_BYTES = 1024;

/** A dictionary, ordered or not. */
export class Dict {
  /** Keys of simple kinds are compared by value, others by identity. */
  readonly pairs = new Map<unknown, unknown>();
  /** What BUILD gave it: the attributes of an OrderedDict. */
  state: unknown = undefined;

  get(key: string): unknown {
    return this.pairs.get(key);
  }
}

export class PickledSet {
  constructor(readonly items: unknown[]) {}
}

/** A name of Python's; the thing of that name is never looked up. */
export class Name {
  constructor(readonly text: string) {}
}

/** An object of a known kind that nobody needs: a time span, a random state. */
export class Inert {
  state: unknown = undefined;

  constructor(
    readonly kind: string,
    readonly args: readonly unknown[],
  ) {}
}

export type Call = (args: readonly unknown[]) => unknown;

/** What a pickle may speak of. */
export interface Meanings {
  /** By `module.name`: what a call makes; null for a name that may stand there but not be called. */
  readonly names: ReadonlyMap<string, Call | null>;
  /** What a persistent id stands for. */
  persistent(id: unknown): unknown;
}

/**
 * Reads one pickle and leaves the cursor behind it. Lists and tuples come back as arrays, bytes as
 * Uint8Array, integers beyond 2^53 as bigint. Anything unknown, damaged or beyond the limits is a Failure.
 */
export function readPickle(cursor: ByteCursor, meanings: Meanings): unknown {
  const begin = cursor.position;
  const protocol = cursor.byte() === 0x80 ? cursor.byte() : 0;
  if (protocol < 2 || protocol > 5) {
    throw cursor.refuse('is not a pickle of protocol 2 to 5');
  }
  const machine = new Machine(cursor, meanings);
  for (let count = 1; ; count++) {
    const place = cursor.position;
    if (place - begin > MAX_BYTES || count > MAX_OPERATIONS) {
      throw cursor.refuse(`goes on beyond ${place - begin} bytes, which is too much for a checkpoint`);
    }
    const code = cursor.byte();
    if (code === STOP) return machine.pop();
    const operation = OPERATIONS[code];
    if (!operation) throw cursor.refuse(`has an unknown operation 0x${code.toString(16)} at byte ${place}`);
    operation(machine);
  }
}

const STOP = 0x2e;

class Machine {
  private readonly stack: unknown[] = [];
  private readonly marks: number[] = [];
  private readonly memo = new Map<number, unknown>();

  constructor(
    readonly cursor: ByteCursor,
    private readonly meanings: Meanings,
  ) {}

  push(value: unknown): void {
    if (this.stack.length >= MAX_STACK) throw this.damaged('its stack grows too high');
    this.stack.push(value);
  }

  pop(): unknown {
    if (this.stack.length <= (this.marks.at(-1) ?? 0)) throw this.damaged('its stack is empty');
    return this.stack.pop();
  }

  top(): unknown {
    if (this.stack.length <= (this.marks.at(-1) ?? 0)) throw this.damaged('its stack is empty');
    return this.stack.at(-1);
  }

  mark(): void {
    if (this.marks.length >= MAX_DEPTH) throw this.damaged('it is nested too deep');
    this.marks.push(this.stack.length);
  }

  popMark(): unknown[] {
    const mark = this.marks.pop();
    if (mark === undefined) throw this.damaged('a mark is missing');
    return this.stack.splice(mark);
  }

  /** The last `count` values as one. */
  tuple(count: number): void {
    const items = Array.from({ length: count }, () => this.pop());
    this.push(items.reverse());
  }

  append(items: readonly unknown[]): void {
    const list = this.top();
    if (!Array.isArray(list)) throw this.damaged('it appends to what is no list');
    for (const item of items) list.push(item);
  }

  setItems(items: readonly unknown[]): void {
    const dict = this.top();
    if (!(dict instanceof Dict) || items.length % 2 !== 0)
      throw this.damaged('it sets items of no dictionary');
    for (let i = 0; i < items.length; i += 2) {
      const key = items[i];
      if (dict.pairs.has(key)) throw this.damaged(`the key ${brief(key)} stands there twice`);
      dict.pairs.set(key, items[i + 1]);
    }
  }

  addItems(items: readonly unknown[]): void {
    const set = this.top();
    if (!(set instanceof PickledSet)) throw this.damaged('it adds items to what is no set');
    for (const item of items) set.items.push(item);
  }

  remember(key: number): void {
    if (this.memo.size >= MAX_MEMO) throw this.damaged('its memo grows too large');
    this.memo.set(key, this.top());
  }

  memoize(): void {
    this.remember(this.memo.size);
  }

  recall(key: number): void {
    if (!this.memo.has(key)) throw this.damaged(`memo ${key} is empty`);
    this.push(this.memo.get(key));
  }

  name(module: unknown, name: unknown): void {
    if (typeof module !== 'string' || typeof name !== 'string') throw this.damaged('a name is no text');
    const text = `${module}.${name}`;
    if (!this.meanings.names.has(text)) throw this.forbidden(`names ${shown(text)}`);
    this.push(new Name(text));
  }

  /** INST: a class by its name, with the arguments since the last mark. */
  instanceOf(module: string, name: string): void {
    const args = this.popMark();
    this.name(module, name);
    this.push(args);
    this.call();
  }

  call(): void {
    const args = this.pop();
    const callee = this.pop();
    if (!(callee instanceof Name)) throw this.forbidden('calls what is no name');
    const make = this.meanings.names.get(callee.text);
    if (!make) throw this.forbidden(`calls ${shown(callee.text)}`);
    if (!Array.isArray(args)) throw this.damaged('arguments are no tuple');
    this.push(make(args));
  }

  /** NEWOBJ_EX: a class, arguments, named arguments. */
  callNamed(): void {
    const named = this.pop();
    if (!(named instanceof Dict) || named.pairs.size > 0)
      throw this.forbidden('makes an object by named arguments');
    this.call();
  }

  /** OBJ: a class and its arguments since the last mark. */
  instance(): void {
    const [callee, ...args] = this.popMark();
    this.push(callee);
    this.push(args);
    this.call();
  }

  build(): void {
    const state = this.pop();
    const object = this.top();
    if (!(object instanceof Dict) && !(object instanceof Inert)) {
      throw this.forbidden('sets the state of a thing that has none');
    }
    object.state = state;
  }

  persistent(): void {
    this.push(this.meanings.persistent(this.pop()));
  }

  text(length: number): void {
    this.push(this.cursor.text(length));
  }

  bytes(length: number): void {
    this.push(this.cursor.take(length).slice());
  }

  real(): void {
    const bytes = this.cursor.take(8);
    this.push(new DataView(bytes.buffer, bytes.byteOffset, 8).getFloat64(0, false));
  }

  /** A two's complement number, little-endian. */
  long(length: number): void {
    if (length > MAX_INTEGER_BYTES) throw this.damaged(`an integer of ${length} bytes`);
    const bytes = this.cursor.take(length);
    let value = 0n;
    for (let i = length - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[i]!);
    if (length > 0 && bytes[length - 1]! >= 0x80) value -= 1n << BigInt(8 * length);
    const number = Number(value);
    this.push(Number.isSafeInteger(number) ? number : value);
  }

  private damaged(why: string): Failure {
    return this.cursor.refuse(`is damaged: ${why} (byte ${this.cursor.position})`);
  }

  private forbidden(why: string): Failure {
    const fix = 'Nothing in it was run; ask its author for tensors only, best as safetensors';
    return this.cursor.refuse(`${why}, which is not data`, fix);
  }
}

const OPERATIONS: ((machine: Machine) => void)[] = [];

/** The operations of the protocols, by their bytes; names as in Python's pickletools. */
const TABLE: Readonly<Record<string, (m: Machine) => void>> = {
  // Stack, memo
  '(': (m) => m.mark(),
  '0': (m) => void m.pop(), // POP
  '1': (m) => void m.popMark(), // POP_MARK
  '2': (m) => m.push(m.top()), // DUP
  q: (m) => m.remember(m.cursor.byte()), // BINPUT
  r: (m) => m.remember(m.cursor.uint(4)), // LONG_BINPUT
  '\x94': (m) => m.memoize(),
  h: (m) => m.recall(m.cursor.byte()), // BINGET
  j: (m) => m.recall(m.cursor.uint(4)), // LONG_BINGET
  '\x95': (m) => void m.cursor.uint(8), // FRAME
  // Constants, numbers
  N: (m) => m.push(null),
  '\x88': (m) => m.push(true),
  '\x89': (m) => m.push(false),
  J: (m) => m.push(m.cursor.uint(4) | 0), // BININT
  K: (m) => m.push(m.cursor.byte()), // BININT1
  M: (m) => m.push(m.cursor.uint(2)), // BININT2
  '\x8a': (m) => m.long(m.cursor.byte()), // LONG1
  '\x8b': (m) => m.long(m.cursor.uint(4)), // LONG4
  G: (m) => m.real(), // BINFLOAT
  // Text, bytes
  X: (m) => m.text(m.cursor.uint(4)), // BINUNICODE
  '\x8c': (m) => m.text(m.cursor.byte()), // SHORT_BINUNICODE
  '\x8d': (m) => m.text(m.cursor.uint(8)), // BINUNICODE8
  T: (m) => m.text(m.cursor.uint(4)), // BINSTRING, of Python 2
  U: (m) => m.text(m.cursor.byte()), // SHORT_BINSTRING
  B: (m) => m.bytes(m.cursor.uint(4)), // BINBYTES
  C: (m) => m.bytes(m.cursor.byte()), // SHORT_BINBYTES
  '\x8e': (m) => m.bytes(m.cursor.uint(8)), // BINBYTES8
  '\x96': (m) => m.bytes(m.cursor.uint(8)), // BYTEARRAY8
  // Tuples, lists, dictionaries, sets
  ')': (m) => m.push([]),
  '\x85': (m) => m.tuple(1),
  '\x86': (m) => m.tuple(2),
  '\x87': (m) => m.tuple(3),
  t: (m) => m.push(m.popMark()), // TUPLE
  ']': (m) => m.push([]),
  l: (m) => m.push(m.popMark()), // LIST
  a: (m) => m.append([m.pop()]),
  e: (m) => m.append(m.popMark()),
  '}': (m) => m.push(new Dict()),
  d(m) {
    const items = m.popMark();
    m.push(new Dict());
    m.setItems(items);
  },
  s(m) {
    const value = m.pop();
    m.setItems([m.pop(), value]);
  },
  u: (m) => m.setItems(m.popMark()),
  '\x8f': (m) => m.push(new PickledSet([])),
  '\x90': (m) => m.addItems(m.popMark()),
  '\x91': (m) => m.push(new PickledSet(m.popMark())), // FROZENSET
  // Names and calls
  c: (m) => m.name(m.cursor.line(MAX_NAME), m.cursor.line(MAX_NAME)), // GLOBAL
  '\x93'(m) {
    const name = m.pop();
    m.name(m.pop(), name);
  },
  R: (m) => m.call(), // REDUCE
  o: (m) => m.instance(), // OBJ
  i: (m) => m.instanceOf(m.cursor.line(MAX_NAME), m.cursor.line(MAX_NAME)), // INST
  '\x81': (m) => m.call(), // NEWOBJ
  '\x92': (m) => m.callNamed(), // NEWOBJ_EX
  b: (m) => m.build(),
  Q: (m) => m.persistent(), // BINPERSID
};
for (const [code, operation] of Object.entries(TABLE)) OPERATIONS[code.charCodeAt(0)] = operation;

/** A name as it may stand in a message. */
function shown(text: string): string {
  return /^[\w.]{1,120}$/.test(text) ? text : JSON.stringify(text.slice(0, 120));
}

/** A value as it may stand in a message. */
export function brief(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.slice(0, 120));
  if (typeof value === 'object' && value !== null)
    return value instanceof Name ? shown(value.text) : 'an object';
  return String(value).slice(0, 40);
}
