// What a run writes down on its way: metrics.jsonl, events.jsonl (what was out of the ordinary), and the same
// numbers and previews for TensorBoard. Opened at a step, none of them holds a later one.
import { join } from 'node:path';
import { type JsonRecord, MetricsLog } from '../io/jsonl.ts';
import { EventFile } from '../io/tensorboard.ts';

/** Names that are no quantity of the curves. */
const PLAIN = new Set(['step', 'stage', 'images', 'seconds']);

/** Losses by noise level as a curve each. */
function levelsOf(levels: unknown): Record<string, number> {
  const list: readonly { sigma: number; loss: number }[] = Array.isArray(levels) ? levels : [];
  return Object.fromEntries(list.map(({ sigma, loss }) => [`val_levels/${sigma.toPrecision(3)}`, loss]));
}

export class Journal implements Disposable {
  private constructor(
    private readonly metrics: MetricsLog,
    private readonly happenings: MetricsLog,
    private readonly board: EventFile | null,
  ) {}

  static open(folder: string, lastStep: number, tensorboard: boolean): Journal {
    const metrics = MetricsLog.open(join(folder, 'metrics.jsonl'), lastStep);
    const happenings = MetricsLog.open(join(folder, 'events.jsonl'), lastStep);
    return new Journal(metrics, happenings, tensorboard ? EventFile.open(folder, lastStep) : null);
  }

  /** A line of metrics; its numbers become curves. */
  note(record: JsonRecord & { readonly step: number }): void {
    this.metrics.append(record);
    const numbers = Object.entries(record).filter(
      (entry): entry is [string, number] => typeof entry[1] === 'number' && !PLAIN.has(entry[0]),
    );
    this.board?.scalars(record.step, { ...Object.fromEntries(numbers), ...levelsOf(record.val_levels) });
  }

  /** Something out of the ordinary: a line of events.jsonl. */
  tell(event: JsonRecord & { readonly step: number; readonly event: string }): void {
    this.happenings.append(event);
  }

  preview(step: number, png: Uint8Array): void {
    // The head of a PNG: 8 bytes of signature, 8 of the first chunk's, then width and height.
    const { buffer, byteOffset } = png;
    const size = new DataView(buffer, byteOffset + 16, 8);
    this.board?.image(step, 'preview', png, size.getUint32(0), size.getUint32(4));
  }

  /** Everything is on the disk; called where a checkpoint is written. */
  sync(): void {
    this.metrics.sync();
    this.happenings.sync();
    this.board?.sync();
  }

  [Symbol.dispose](): void {
    this.metrics.close();
    this.happenings.close();
    this.board?.close();
  }
}
