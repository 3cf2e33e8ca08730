// A Bun Worker that reads, decodes and cuts pictures. It is an entry point of its own in the executable
// (Makefile).
import { Failure } from '../io/failure.ts';
import type { Item, ItemSettings, Result } from './item.ts';
import { prepareItem } from './picture.ts';

export interface Order {
  readonly id: number;
  readonly item: Item;
  readonly settings: ItemSettings;
}

/** What came of an order; `failure` where not the picture is at fault. */
export interface Answer {
  readonly id: number;
  readonly result: Result | null;
  readonly failure: { readonly message: string; readonly code: number } | null;
}

declare const self: Worker;

self.onmessage = async ({ data }: MessageEvent<Order>) => {
  const { id, item, settings } = data;
  try {
    const result = await prepareItem(item, settings);
    postMessage({ id, result, failure: null } satisfies Answer);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    const code = error instanceof Failure ? error.code : 1;
    postMessage({ id, result: null, failure: { message, code } } satisfies Answer);
  }
};
