// Histograms with fixed bins, so that those of several sets can be added up and compared.

/** `counts[i]`: values from `edges[i]` to below `edges[i + 1]`; the last bin has no upper end. */
export interface Histogram {
  readonly edges: readonly number[];
  readonly counts: readonly number[];
}

export const EDGES = {
  /** Width over height: the same bins for upright pictures and for wide ones. */
  aspect_ratio: [0, 0.33, 0.5, 0.67, 0.8, 0.95, 1.05, 1.25, 1.5, 2, 3],
  /** Pixels. */
  shorter_edge: [0, 16, 32, 64, 128, 256, 384, 512, 768, 1024, 1536, 2048, 4096],
  caption_characters: [0, 10, 20, 40, 80, 160, 320, 640, 1280],
} as const;

export class Bins {
  private readonly counts: number[];

  /** `edges` rise, the first is the least value that there is. */
  constructor(private readonly edges: readonly number[]) {
    this.counts = edges.map(() => 0);
  }

  add(value: number): void {
    const above = this.edges.findIndex((edge) => value < edge);
    this.counts[Math.max(0, above < 0 ? this.edges.length - 1 : above - 1)]! += 1;
  }

  get histogram(): Histogram {
    return { edges: this.edges, counts: [...this.counts] };
  }
}

const BARS = '▁▂▃▄▅▆▇█';

/** A line such as `0.5 ▂█▅ 1.25`: the bins from the first to the last that is not empty; '' where all are. */
export function barsOf({ edges, counts }: Histogram): string {
  const first = counts.findIndex((count) => count > 0);
  if (first < 0) return '';
  const last = counts.findLastIndex((count) => count > 0);
  const most = Math.max(...counts);
  const shown = counts.slice(first, last + 1).map((count) => {
    return count === 0 ? ' ' : BARS[Math.ceil((count / most) * BARS.length) - 1]!;
  });
  const end = edges[last + 1];
  return `${edges[first]} ${shown.join('')} ${end === undefined ? 'and more' : end}`;
}
