// What sources give and workers make of it: pictures with captions, by their place, and what is left out.

/** Where the picture of an item is. `none`: there is none, and why. */
export type ImageRef =
  | { readonly path: string }
  | { readonly url: string }
  | { readonly bytes: Uint8Array }
  /** Pixels [height, width, 3]. */
  | { readonly rgb: Uint8Array; readonly width: number; readonly height: number }
  | { readonly none: Dropped };

/** Captions at hand, or the files that they stand in. */
export type CaptionRef = { readonly texts: readonly string[] } | { readonly files: readonly string[] };

/** A picture of a source. */
export interface Item {
  /** Counted from 0 over all sources; the order of the set. */
  readonly place: number;
  /** The file, or the file and the row or sample in it. */
  readonly name: string;
  readonly image: ImageRef;
  readonly captions: CaptionRef;
}

/** Why an item is not in the set; the reasons are the keys of the report. */
export const REASONS = [
  'missing',
  'damaged',
  'unsupported',
  'too large',
  'too small',
  'no caption',
  'no picture',
  'bad row',
  'download',
  'duplicate',
  'not finite',
] as const;

export type Reason = (typeof REASONS)[number];

/** Reasons that are decisions and not faults of the data. */
export const CHOSEN: readonly Reason[] = ['too small', 'no caption', 'duplicate'];

export interface Dropped {
  readonly reason: Reason;
  readonly why: string;
}

/** What a worker makes of an item. */
export interface Prepared {
  /** First 16 bytes of the SHA-256 of the picture's bytes. */
  readonly hash: Uint8Array;
  readonly format: string;
  /** Bytes of the file. */
  readonly bytes: number;
  readonly width: number;
  readonly height: number;
  /** For each size the middle square, planes [3, size, size]. */
  readonly squares: readonly Uint8Array[];
  /** Chosen and cleaned, at least one. */
  readonly captions: readonly string[];
}

/** One of the two. */
export type Result = { readonly prepared: Prepared } | { readonly dropped: Dropped };

export const CAPTION_MODES = ['first', 'random', 'all', 'join'] as const;
export type CaptionMode = (typeof CAPTION_MODES)[number];
export const CLEAN_MODES = ['none', 'reference'] as const;
export type CleanMode = (typeof CLEAN_MODES)[number];

/** What is done with every item, by whichever worker. */
export interface ItemSettings {
  readonly sizes: readonly number[];
  readonly minSize: number;
  readonly exif: boolean;
  readonly captions: CaptionMode;
  readonly clean: CleanMode;
  /** In JSON beside a picture; the usual names where it is left out. */
  readonly captionKey?: string | undefined;
  readonly seed: number;
  readonly allowUrls: boolean;
  /** Of a download: bytes at most, and seconds for one try. */
  readonly urlBytes: number;
  readonly urlSeconds: number;
}
