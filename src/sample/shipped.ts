// The models inside the executable, by name.
import emoji from '../../weights/emoji.safetensors' with { type: 'file' };

/**
 * Name -> path of the embedded file. A model joins by one import with { type: 'file' } and its line here.
 */
export const SHIPPED: Readonly<Record<string, string>> = { emoji };

/** The model that is used when none is named. */
export const DEFAULT_MODEL = 'emoji';
