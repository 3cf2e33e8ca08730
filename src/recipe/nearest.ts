// The nearest valid name to a misspelt one, for error messages.

/** Edit distance in which swapping two neighbours counts as one change (optimal string alignment). */
export function editDistance(a: string, b: string): number {
  let before: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1] ? 0 : 1;
      let best = Math.min(last[j]! + 1, row[j - 1]! + 1, last[j - 1]! + same);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) {
        best = Math.min(best, before[j - 2]! + 1);
      }
      row.push(best);
    }
    before = last;
    last = row;
  }
  return last[b.length]!;
}

/** The candidate nearest to `name`, or undefined when none is near enough to be what was meant. */
export function nearest(name: string, candidates: Iterable<string>): string | undefined {
  const limit = name.length < 5 ? 1 : Math.max(2, Math.floor(name.length / 3));
  let best: string | undefined;
  let least = limit + 1;
  for (const candidate of candidates) {
    const prefix = name.length > 2 && candidate.toLowerCase().startsWith(name.toLowerCase());
    const distance = prefix ? 1 : editDistance(name.toLowerCase(), candidate.toLowerCase());
    if (distance < least && distance < Math.max(name.length, candidate.length)) {
      least = distance;
      best = candidate;
    }
  }
  return best;
}

/** "Did you mean X?", or the whole list when nothing is near and the list is short. */
export function didYouMean(name: string, candidates: readonly string[]): string | undefined {
  const found = nearest(name, candidates);
  if (found !== undefined) return `Did you mean ${found}?`;
  return candidates.length > 0 && candidates.length <= 12
    ? `Choose from ${candidates.join(', ')}`
    : undefined;
}
