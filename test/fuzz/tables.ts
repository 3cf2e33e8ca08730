// What is fuzzed of `prepare`'s sources and of lists of prompts: tables, archives and caption files as files
// on the disk, read by the calls that a command makes; and the clean-up of captions.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { brotliCompressSync, gunzipSync, gzipSync, zstdCompressSync } from 'node:zlib';
import { parquetWriteBuffer } from 'hyparquet-writer';
import { readPromptList } from '../../src/eval/prompt-lists.ts';
import { Failure } from '../../src/io/failure.ts';
import { TAR_END, tarEntry } from '../../src/io/tar.ts';
import { chooseCaptions } from '../../src/prepare/captions.ts';
import type { ItemSettings } from '../../src/prepare/item.ts';
import { prepareItem } from '../../src/prepare/picture.ts';
import { itemsOf } from '../../src/prepare/sources.ts';
import { resolveRecipe } from '../../src/recipe/resolve.ts';
import { cleanPrompt } from '../../src/text/clean.ts';
import type { FuzzTarget, Random } from './fuzz.ts';
import { mended } from './packing.ts';

/** A file of this process alone that holds the input. */
const folder = mkdtempSync(join(tmpdir(), 'fuzz-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));

function fileOf(name: string, bytes: Uint8Array): string {
  const path = join(folder, name);
  writeFileSync(path, bytes);
  return path;
}

const text = (lines: readonly string[]) => new TextEncoder().encode(`${lines.join('\n')}\n`);

/** A pattern of pixels would be fuzzed as a picture: what is taken out of a table is all that counts here. */
const SETTINGS: ItemSettings = {
  sizes: [8],
  minSize: 1,
  exif: true,
  captions: 'all',
  clean: 'none',
  seed: 1,
  allowUrls: false,
  urlBytes: 2 ** 20,
  urlSeconds: 1,
};

/** Every item of a source; a Failure, too, where the rows are all dropped. */
async function readSource(name: string, bytes: Uint8Array): Promise<void> {
  let good = 0;
  for await (const { image, captions } of itemsOf([fileOf(name, bytes)], {})) {
    if (!('none' in image)) good++;
    if ('texts' in captions) chooseCaptions(captions.texts, 'all', 'none', 1, 0);
  }
  if (good === 0) throw new Failure({ what: name, why: 'no item has a picture' });
}

const CAPTIONS = ['A fox, running', 'two "red" apples', 'é苹果 😀', '', 'line\tone', 'x'.repeat(90)];
const rowCaptions = Array.from({ length: 120 }, (_, i) => (i === 7 ? null : CAPTIONS[i % 6]!));

const COMPRESSORS = {
  GZIP: (bytes: Uint8Array) => gzipSync(bytes),
  BROTLI: (bytes: Uint8Array) => brotliCompressSync(bytes),
  ZSTD: (bytes: Uint8Array) => zstdCompressSync(bytes),
};
const PARQUETS = [
  { codec: 'UNCOMPRESSED' },
  { codec: 'UNCOMPRESSED', encoding: 'PLAIN' },
  { codec: 'UNCOMPRESSED', encoding: 'DELTA_BYTE_ARRAY' },
  { codec: 'UNCOMPRESSED', encoding: 'DELTA_LENGTH_BYTE_ARRAY' },
  { codec: 'SNAPPY' },
  { codec: 'GZIP' },
  { codec: 'BROTLI' },
  { codec: 'ZSTD' },
] as const;

/** Captions, pictures as bytes, a column that nobody wants; the last one has lists of captions. */
function parquet(variant: number): Uint8Array {
  const images = rowCaptions.map((_, i) => Uint8Array.of(i, 255, 0));
  const lists = variant === PARQUETS.length;
  const { codec, ...more } = lists ? PARQUETS[0] : PARQUETS[variant]!;
  const columnData = [
    { name: 'image', data: images, type: 'BYTE_ARRAY' as const, ...more },
    lists
      ? { name: 'caption', data: rowCaptions.map((caption) => [caption, 'another']) }
      : { name: 'caption', data: rowCaptions, type: 'STRING' as const, ...more },
    { name: 'width', data: rowCaptions.map((_, i) => BigInt(i)), type: 'INT64' as const },
  ];
  return new Uint8Array(
    parquetWriteBuffer({ codec, compressors: COMPRESSORS, rowGroupSize: 50, columnData }),
  );
}

const quoted = (caption: string | null) => `"${(caption ?? '').replaceAll('"', '""')}"`;
const TABLE_WORDS = ['"', '""', ',', '\t', '\r\n', '\0', 'data:image/png;base64,', 'https://x/', '\ufeff'];
const TABLES: Readonly<Record<string, (variant: number) => Uint8Array>> = {
  csv: () => text(['image,caption', ...rowCaptions.map((caption, i) => `${i}.png,${quoted(caption)}`)]),
  tsv: () => text(['path\ttext\tn', ...CAPTIONS.map((caption, i) => `${i}.png\t${caption}\t1`)]),
  jsonl: (variant) =>
    text(
      CAPTIONS.map((caption, i) =>
        JSON.stringify(
          variant === 0 ? { image: `${i}.png`, caption } : { Url: 'https://x/y', texts: [caption, ''], i },
        ),
      ),
    ),
};

function webdataset(): Uint8Array {
  const files = ['a/1.jpg', 'a/1.txt', 'a/2.seg.png', 'a/2.PNG', 'b/1.json', '__x__.txt', 'b/1.webp'];
  const content = new TextEncoder().encode('{"caption": ["one", "two"], "n": 3}');
  return Buffer.concat([...files.map((name) => tarEntry(name, content)), TAR_END]);
}

const COCO = {
  info: { year: 2014 },
  annotations: CAPTIONS.map((caption, i) => ({ image_id: i >> 1, id: 90 - i, caption })),
};

const MADE_UP = new TextDecoder()
  .decode(gunzipSync(readFileSync('test/goldens/captions/made-up.jsonl.gz')))
  .split('\n')
  .filter((line) => line !== '')
  .map((line): string => JSON.parse(line).text);

/** Bytes as text in one of several ways, now and then with a piece of it over and over again. */
function captionFrom(bytes: Uint8Array, random: Random): string {
  const way = random(8);
  const encoding = way === 0 ? 'utf-16le' : way === 1 ? 'windows-1252' : 'utf-8';
  let caption = new TextDecoder(encoding).decode(bytes);
  if (random(12) === 0) {
    const from = random(caption.length);
    const piece = caption.slice(from, from + 1 + random(6));
    caption = caption.slice(0, random(40)) + piece.repeat(random(4000 / (piece.length || 1))) + caption;
  }
  return caption;
}

/** The pieces that the clean-up of captions looks for. */
const MARKUP = [
  ...['<a href="', '<script>', '</script', '<![CDATA[', '<!--', '-->', '<pre>', '<br/>', '</', '<?', ']]>'],
  ...['&amp;amp;', '&#x110000;', '&#0;', '&#99999999999;', '&nbsp', '&lt;b&gt;', '&#xD800;', '&CounterClock'],
  ...['Ã©', 'â€™', '\u00c3\u00a0 ', '\u0300', '\ufb03', '\uff21', '\u200d', '\ufffd', '\x1b[31m', '%C3%A9'],
  ...['http://', 'www.a.com', '@x', '1920x1080', '127.0.0.1', '.png', '#12', 'free shipping', "''", '  '],
];

const RECIPES = ['tiny.toml', 'quickstart.toml', 'yaml', 'jsonc'];
const recipe = (variant: number) => {
  if (RECIPES[variant]!.endsWith('.toml')) return readFileSync(`recipes/${RECIPES[variant]}`);
  const tree = { model: { preset: 'tiny' }, stage: [{ steps: 4 }, { steps: 2, mask: 0.5 }] };
  return new TextEncoder().encode(
    variant === 2 ? Bun.YAML.stringify(tree, null, 2) : JSON.stringify(tree, null, 1),
  );
};

export const TABLE_TARGETS: readonly FuzzTarget[] = [
  {
    name: 'parquet',
    variants: PARQUETS.length + 1,
    make: parquet,
    call: (bytes) => readSource('x.parquet', bytes),
    words: ['PAR1', '\x15\x80\x80\x80\x10', '\xff\xff\xff\x7f', '\x1c\x1c\x1c\x1c', '\x19\xfc\xff\xff\x7f'],
  },
  ...Object.entries(TABLES).map(([ending, make]) => ({
    name: ending,
    variants: ending === 'jsonl' ? 2 : 1,
    make,
    call: (bytes: Uint8Array) => readSource(`x.${ending}`, bytes),
    words: ending === 'jsonl' ? ['{', '[', ']', '}', 'null', '\\u0000', '\\ud800', '[[['] : TABLE_WORDS,
  })),
  {
    name: 'webdataset',
    variants: 1,
    make: webdataset,
    call: (bytes) => readSource('x.tar', mended(bytes)),
    words: ['../', '/', '.', '__', '\0', 'x', 'g', '99 path=', 'size='],
  },
  {
    name: 'caption file',
    variants: 3,
    make: (i) => text([JSON.stringify([COCO, CAPTIONS, { Caption: 'one', texts: ['two'] }][i])]),
    call: async (bytes) => {
      const captions = { files: [fileOf('x.json', bytes)] };
      const image = { bytes: new Uint8Array(1) }; // looked at after the captions
      const result = await prepareItem({ place: 0, name: 'x', image, captions }, SETTINGS);
      if ('dropped' in result && result.dropped.reason === 'no caption') {
        throw new Failure({ what: 'x.json', why: result.dropped.why });
      }
    },
    words: ['{', '[', ']', '}', 'null', '"caption":', '__proto__', '\\ud800'],
  },
  {
    name: 'prompt list',
    variants: 2,
    make: (i) => text(i === 0 ? [JSON.stringify(COCO)] : ['a fox', '{"prompt": "two", "seed": 3}']),
    call: (bytes, random) =>
      readPromptList(fileOf(random(8) ? 'x.json' : 'x.txt', bytes), { seed: random(100) }),
    words: ['{', '[', ']', '}', 'null', '"image_id":', '__proto__', '\\ud800', '1e400'],
  },
  {
    name: 'caption clean-up',
    variants: MADE_UP.length,
    make: (i) => new TextEncoder().encode(MADE_UP[i]),
    call: (bytes, random) => {
      const caption = captionFrom(bytes, random);
      const [cleaned] = chooseCaptions([caption], 'all', 'reference', 1, 0);
      if (cleaned !== undefined && !cleaned.isWellFormed()) throw new Error('half a character is left');
      cleanPrompt(caption.slice(0, 2000));
    },
    words: MARKUP,
  },
  {
    name: 'recipe',
    variants: RECIPES.length,
    make: recipe,
    call: (bytes, random) => {
      const name = `x.${['toml', 'toml', 'yaml', 'jsonc'][random(4)]}`;
      return resolveRecipe({ file: { name, text: new TextDecoder().decode(bytes) } });
    },
    words: ['[[stage]]', '[', '{', '&a', '*a', '"""', '= nan', '- ', ': |', '//', '__proto__', '1979-05-27'],
  },
];
