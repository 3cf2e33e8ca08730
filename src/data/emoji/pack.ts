// Build step: `bun run src/data/emoji/pack.ts OUT [--pin]` makes the emoji pack from the npm packages and
// checks it against pinned.json. --pin writes pinned.json instead (after a deliberate change of packages or
// of the coder).
import { mkdirSync, renameSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { Failure } from '../../io/failure.ts';
import { drawOnWhite } from './draw.ts';
import { holdOut } from './held-out.ts';
import { joinPackages, PACKAGES } from './join.ts';
import pinned from './pinned.json';
import { openEmoji, packEmoji } from './set.ts';

const MODULES = join(import.meta.dir, '../../../node_modules');
const LIMIT = 10e6; // bytes that the executable may spend on the pack

/**
 * Largest error of a channel value by style: all lossless would take 12 MB, so the two shaded styles may be
 * off by 1.
 */
const NEAR = { noto: 1, 'fluent flat': 0, 'fluent 3d': 1 };

interface Pin {
  readonly versions: Readonly<Record<string, string>>;
  readonly pairs: number;
  /** sha256 of the joined source files: equal on every machine. */
  readonly sources: string;
  /** sha256 of names, styles and 64 px pictures: what a trained model carries. */
  readonly pictures: string;
}

async function build(out: string, pin: boolean): Promise<void> {
  const versions: Record<string, string> = {};
  for (const name of PACKAGES)
    versions[name] = (await Bun.file(join(MODULES, name, 'package.json')).json()).version;
  const sources = await joinPackages(MODULES);
  const hasher = new Bun.CryptoHasher('sha256');
  for (const { image, ...about } of sources) hasher.update(JSON.stringify(about)).update(image);

  const held = holdOut(sources);
  const pairs = sources.map(({ image: _, ...about }, i) => ({ ...about, heldOut: held[i]! }));
  const pictures: Uint8Array[] = [];
  for (const { image } of sources) pictures.push(await drawOnWhite(image));
  const bytes = packEmoji(pairs, pictures, NEAR);
  if (bytes.length > LIMIT) {
    throw new Failure({ what: out, why: `would be ${bytes.length} bytes, more than ${LIMIT}` });
  }
  const made: Pin = {
    versions,
    pairs: pairs.length,
    sources: hasher.digest('hex'),
    pictures: openEmoji(bytes).hash,
  };
  if (pin) await Bun.write(join(import.meta.dir, 'pinned.json'), `${JSON.stringify(made, null, 2)}\n`);
  else check(made, pinned);
  mkdirSync(dirname(out), { recursive: true });
  await Bun.write(`${out}.part`, bytes);
  renameSync(`${out}.part`, out);
  process.stderr.write(`${out}: ${pairs.length} pairs, ${(bytes.length / 1e6).toFixed(2)} MB\n`);
}

/**
 * Refuses other sources than the pinned ones. Pictures may differ in the last bit where another processor
 * makes the drawing library round otherwise: that is said, and the pack carries the hash of its own pictures.
 */
function check(made: Pin, want: Pin): void {
  for (const key of ['versions', 'pairs', 'sources'] as const) {
    const [is, should] = [JSON.stringify(made[key]), JSON.stringify(want[key])];
    if (is !== should) {
      const fix = 'Run `bun install --frozen-lockfile`; after a wanted change run this with --pin';
      throw new Failure({ what: `emoji pack, ${key}`, why: `${is} is not the pinned ${should}`, fix });
    }
  }
  if (made.pictures !== want.pictures) {
    process.stderr.write(
      `warning: emoji pictures ${made.pictures} differ from the pinned ${want.pictures}\n`,
    );
  }
}

const [out, flag] = process.argv.slice(2);
try {
  if (out === undefined) throw new Failure({ what: 'pack.ts', why: 'needs the path to write', code: 2 });
  await build(out, flag === '--pin');
} catch (error) {
  if (!(error instanceof Failure)) throw error;
  process.stderr.write(`${error.message}\n`);
  process.exit(error.code);
}
