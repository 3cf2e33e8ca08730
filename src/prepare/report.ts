// What a preparation came to: how many, how large, how long, and what was left out for which reason.
import type { JsonRecord } from '../io/jsonl.ts';
import { Bins, EDGES, type Histogram } from './histogram.ts';

/** Written as report.json. */
export interface Report {
  readonly items: number;
  /** Items in the set, and their samples: more where every caption makes one. */
  readonly written: number;
  readonly samples: number;
  /** Items in the set whose shorter edge is less than the largest size: they were enlarged. */
  readonly enlarged: number;
  /** Number of items by the reason for which they were left out. */
  readonly dropped: Readonly<Record<string, number>>;
  readonly formats: Readonly<Record<string, number>>;
  readonly width: Spread | null;
  readonly height: Spread | null;
  readonly aspect_ratio: Spread | null;
  readonly caption_characters: Spread | null;
  readonly histograms: Readonly<Record<keyof typeof EDGES, Histogram>>;
}

export interface Spread {
  readonly least: number;
  readonly mean: number;
  readonly most: number;
}

class Range {
  private count = 0;
  private sum = 0;
  private least = Number.POSITIVE_INFINITY;
  private most = Number.NEGATIVE_INFINITY;

  add(value: number): void {
    this.count += 1;
    this.sum += value;
    this.least = Math.min(this.least, value);
    this.most = Math.max(this.most, value);
  }

  get spread(): Spread | null {
    const mean = Number((this.sum / this.count).toFixed(4));
    return this.count === 0 ? null : { least: this.least, mean, most: this.most };
  }
}

/** Counts notes of items, in any number of sittings. */
export class Tally {
  items = 0;
  written = 0;
  samples = 0;
  private enlarged = 0;
  private readonly dropped: Record<string, number> = {};
  private readonly formats: Record<string, number> = {};
  /** Name of the first item with each hash. */
  private readonly holders = new Map<string, string>();
  private readonly ranges = {
    width: new Range(),
    height: new Range(),
    aspect: new Range(),
    caption: new Range(),
  };
  private readonly bins = {
    aspect_ratio: new Bins(EDGES.aspect_ratio),
    shorter_edge: new Bins(EDGES.shorter_edge),
    caption_characters: new Bins(EDGES.caption_characters),
  };

  /** `largest`: side of the largest square that is made of a picture. */
  constructor(private readonly largest: number) {}

  /** A note as the journal holds it. */
  add(note: JsonRecord): void {
    this.items += 1;
    const { reason, hash, name, width, height, format, captions } = note;
    if (typeof reason === 'string') {
      this.dropped[reason] = (this.dropped[reason] ?? 0) + 1;
      return;
    }
    if (typeof width !== 'number' || typeof height !== 'number' || !Array.isArray(captions)) return;
    this.written += 1;
    this.samples += captions.length;
    if (Math.min(width, height) < this.largest) this.enlarged += 1;
    this.formats[String(format)] = (this.formats[String(format)] ?? 0) + 1;
    if (!this.holders.has(String(hash))) this.holders.set(String(hash), String(name));
    this.ranges.width.add(width);
    this.ranges.height.add(height);
    this.ranges.aspect.add(Number((width / height).toFixed(4)));
    this.bins.aspect_ratio.add(width / height);
    this.bins.shorter_edge.add(Math.min(width, height));
    for (const length of captions) {
      this.ranges.caption.add(Number(length));
      this.bins.caption_characters.add(Number(length));
    }
  }

  /** The name of the item in the set with this hash. */
  holderOf(hash: string): string | undefined {
    return this.holders.get(hash);
  }

  get left(): number {
    return this.items - this.written;
  }

  report(): Report {
    const { width, height, aspect, caption } = this.ranges;
    const { aspect_ratio, shorter_edge, caption_characters } = this.bins;
    return {
      ...{ items: this.items, written: this.written, samples: this.samples, enlarged: this.enlarged },
      ...{ dropped: this.dropped, formats: this.formats },
      ...{ width: width.spread, height: height.spread },
      ...{ aspect_ratio: aspect.spread, caption_characters: caption.spread },
      histograms: {
        aspect_ratio: aspect_ratio.histogram,
        shorter_edge: shorter_edge.histogram,
        caption_characters: caption_characters.histogram,
      },
    };
  }
}
