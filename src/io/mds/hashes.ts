// Hashes of shard files: those of the format that this build can compute, as hexadecimal text.

/** Names as indexes have them; others (xxh128, xxh3_128, ...) cannot be checked here. */
const HASHES: Readonly<Record<string, (bytes: Uint8Array) => string>> = {
  ...crypto('md5', 'sha1', 'sha224', 'sha256', 'sha384', 'sha512'),
  sha3_224: (bytes) => digest('sha3-224', bytes),
  sha3_256: (bytes) => digest('sha3-256', bytes),
  sha3_384: (bytes) => digest('sha3-384', bytes),
  sha3_512: (bytes) => digest('sha3-512', bytes),
  blake2b: (bytes) => digest('blake2b512', bytes),
  blake2s: (bytes) => digest('blake2s256', bytes),
  xxh32: (bytes) => hex(Bun.hash.xxHash32(bytes), 8),
  xxh64: (bytes) => hex(Bun.hash.xxHash64(bytes), 16),
  xxh3_64: (bytes) => hex(Bun.hash.xxHash3(bytes), 16),
};

/** Every name that `hashOf` knows. */
export const HASH_NAMES: readonly string[] = Object.keys(HASHES).sort();

export function isKnownHash(name: string): boolean {
  return Object.hasOwn(HASHES, name);
}

/** The hash of some bytes in hexadecimal digits, or null for an algorithm that is not known here. */
export function hashOf(name: string, bytes: Uint8Array): string | null {
  return isKnownHash(name) ? HASHES[name]!(bytes) : null;
}

type Algorithm = ConstructorParameters<typeof Bun.CryptoHasher>[0];

function crypto(...names: readonly Algorithm[]): Record<string, (bytes: Uint8Array) => string> {
  return Object.fromEntries(names.map((name) => [name, (bytes) => digest(name, bytes)]));
}

function digest(name: Algorithm, bytes: Uint8Array): string {
  return new Bun.CryptoHasher(name).update(bytes).digest('hex');
}

function hex(value: number | bigint, digits: number): string {
  return value.toString(16).padStart(digits, '0');
}
