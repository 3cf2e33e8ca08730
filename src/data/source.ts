// Where pictures and captions come from: emoji of the pack, drawn shapes and folders, behind one interface.
import { Failure } from '../io/failure.ts';
import type { DataSource } from '../recipe/schema.ts';
import { rowsOfText, writeRows } from './caption-rows.ts';
import { captionForms, captionOf, formOf } from './emoji/captions.ts';
import type { EmojiSet } from './emoji/set.ts';
import type { FolderPictures } from './folder.ts';
import { subsetOf } from './emoji/subset.ts';
import { SIGNED } from './shard-picture.ts';
import { captionOfScene, drawScene, emptyScene, SCENE_COUNT, sceneAt } from './shapes.ts';

/** Pictures and captions by item number. Writing makes no garbage. */
export interface Source {
  readonly name: string;
  /** Items 0..count-1. */
  readonly count: number;
  /** Writes the picture as planes [3, size, size] in [-1, 1] into `out` at `offset`. */
  picture(item: number, out: Float32Array, offset: number): void;
  /** The caption in the wording that captionIndex (32 even bits) chooses. */
  caption(item: number, captionIndex: number): string;
  /** Writes the word rows [S, 2] of that caption into `out` at `offset`; words beyond S are cut. */
  tokens(item: number, captionIndex: number, out: Int32Array, offset: number): void;
}

export interface SourceShape {
  /** Side of the pictures in pixels. */
  readonly size: number;
  /** Words of a caption, S. */
  readonly length: number;
  /** Rows of the word table, V. */
  readonly rows: number;
}

/** What sources are made of, read before; asked for when a source needs it. */
export interface SourceFiles {
  emoji(): EmojiSet;
  folder(path: string): FolderPictures;
}

/**
 * The sources of a recipe, in its order; `seed` draws the shapes. Throws a Failure that names the key for an
 * unknown subset or style and for a source that comes out empty.
 */
export function openSources(
  configs: readonly (Pick<DataSource, 'name'> & Partial<DataSource>)[],
  files: SourceFiles,
  shape: SourceShape,
  seed: number,
): Source[] {
  return configs.map((config, i) => {
    if (config.name === 'shapes') return shapesSource(shape, seed, config.count);
    if (config.name === 'folder') return folderSource(files.folder(config.path ?? ''), shape, config.count);
    const set = files.emoji();
    return emojiSource(set, selectEmoji(set, config, `data.source.${i}`), shape);
  });
}

/** Indices of the pairs that a source means: subset, then styles, then count; never held-out ones. */
export function selectEmoji(
  set: EmojiSet,
  config: Partial<Pick<DataSource, 'subset' | 'styles' | 'count'>>,
  key: string,
): number[] {
  const known = [...new Set(set.pairs.map((pair) => pair.style))];
  const unknown = config.styles?.find((style) => !known.includes(style));
  if (unknown !== undefined) {
    const fix = `Use some of: ${known.join(', ')}`;
    throw new Failure({ what: `${key}.styles`, why: `no style ${unknown}`, fix, code: 2 });
  }
  const all = config.subset === undefined ? set.pairs.map((_, i) => i) : subsetOf(set, config.subset);
  const wanted = all.filter((i) => {
    const pair = set.pairs[i]!;
    return !pair.heldOut && (config.styles === undefined || config.styles.includes(pair.style));
  });
  if (wanted.length === 0) throw new Failure({ what: key, why: 'selects no pictures', code: 2 });
  return wanted.slice(0, config.count);
}

/** Emoji by their indices in the set: pictures are decoded and captions tokenized here, once. */
export function emojiSource(set: EmojiSet, indices: readonly number[], shape: SourceShape): Source {
  const pictures = planesOf(indices.length, shape.size, (item) => set.image(indices[item]!, shape.size));
  const pairs = indices.map((index) => set.pairs[index]!);
  const captions = pairs.map((pair) => captionForms(pair).map((text) => rowsOfText(text, shape)));
  return {
    name: 'emoji',
    count: indices.length,
    picture: pictures,
    caption: (item, captionIndex) => captionOf(pairs[item]!, captionIndex),
    tokens(item, captionIndex, out, offset) {
      writeRows(captions[item]![formOf(captionIndex)]!, shape.length, out, offset);
    },
  };
}

/** The first `count` pictures of a folder, or all of them; each has one caption. */
export function folderSource(folder: FolderPictures, shape: SourceShape, count = Infinity): Source {
  const captions = folder.captions.slice(0, count);
  const rows = captions.map((caption) => rowsOfText(caption, shape));
  return {
    name: 'folder',
    count: captions.length,
    picture: planesOf(captions.length, shape.size, (item) => folder.picture(item)),
    caption: (item) => captions[item]!,
    tokens(item, _captionIndex, out, offset) {
      writeRows(rows[item]!, shape.length, out, offset);
    },
  };
}

/** Keeps RGB bytes [size, size, 3] as planes [count, 3, size, size]; returns what writes one in [-1, 1]. */
function planesOf(count: number, size: number, rgbOf: (item: number) => Uint8Array): Source['picture'] {
  const area = size * size;
  const planes = new Uint8Array(count * 3 * area);
  for (let item = 0; item < count; item++) {
    const rgb = rgbOf(item);
    for (let c = 0; c < 3; c++) {
      const plane = (item * 3 + c) * area;
      for (let i = 0; i < area; i++) planes[plane + i] = rgb[i * 3 + c]!;
    }
  }
  return (item, out, offset) => {
    const from = item * 3 * area;
    for (let i = 0; i < 3 * area; i++) out[offset + i] = SIGNED[planes[from + i]!]!;
  };
}

/** Drawn shapes; item i is scene i of the seed. */
export function shapesSource(shape: SourceShape, seed: number, count: number = SCENE_COUNT): Source {
  const scene = emptyScene();
  // Shapes, colours and relations are few, so each caption's rows are kept when first met.
  const known = new Map<number, Int32Array>();
  return {
    name: 'shapes',
    count,
    picture(item, out, offset) {
      drawScene(sceneAt(seed, item, scene), shape.size, out, offset);
    },
    caption: (item) => captionOfScene(sceneAt(seed, item, scene)),
    tokens(item, _captionIndex, out, offset) {
      sceneAt(seed, item, scene);
      const second = scene.relation === 0 ? 0 : scene.shape2 * 16 + scene.colour2;
      const key = ((scene.relation * 16 + scene.shape) * 16 + scene.colour) * 256 + second;
      let rows = known.get(key);
      if (rows === undefined) {
        rows = rowsOfText(captionOfScene(scene), shape);
        known.set(key, rows);
      }
      writeRows(rows, shape.length, out, offset);
    },
  };
}
