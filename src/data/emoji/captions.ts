// Captions of emoji: the full template and the short forms that users type.
import type { EmojiPair } from './set.ts';

type Words = Pick<EmojiPair, 'name' | 'style' | 'keywords'>;

/** Forms with their shares in percent; only the last leaves the style open. */
const FORMS: readonly { readonly share: number; readonly write: (pair: Words) => string }[] = [
  { share: 30, write: (pair) => fullCaption(pair) },
  { share: 15, write: ({ name, style }) => `a ${style} emoji of ${withArticle(name)}` },
  { share: 25, write: ({ name, style }) => `${withArticle(name)}, ${style} style` },
  { share: 15, write: ({ name, style }) => `${name}, ${style}` },
  { share: 10, write: ({ name, style }) => `${style} ${name}` },
  { share: 5, write: ({ name }) => withArticle(name) },
];

/** The template of the set: "a fluent 3d emoji of red apple, fruit, school". */
export function fullCaption({ name, style, keywords }: Words): string {
  return [`a ${style} emoji of ${name}`, ...keywords].join(', ');
}

/** The form in which a caption is asked for when a model is judged: "a red apple, fluent 3d style". */
export function promptOf({ name, style }: Pick<EmojiPair, 'name' | 'style'>): string {
  return `${withArticle(name)}, ${style} style`;
}

/**
 * The caption of a pair for one showing of it. `index` is any whole number >= 0, evenly spread (a hash of
 * seed and place); equal indices give equal captions.
 */
export function captionOf(pair: Words, index: number): string {
  return FORMS[formOf(index)]!.write(pair);
}

/** Which of captionForms an index chooses. */
export function formOf(index: number): number {
  let rest = index % 100;
  return FORMS.findIndex((form) => {
    rest -= form.share;
    return rest < 0;
  });
}

/** Every form of a pair's caption, once each. */
export function captionForms(pair: Words): string[] {
  return FORMS.map((form) => form.write(pair));
}

function withArticle(name: string): string {
  return `${/^[aeiou]/.test(name) ? 'an' : 'a'} ${name}`;
}
