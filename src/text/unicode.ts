// Classes of characters as Python's str and re have them, for code that must cut text where Python does.

/** What str.isspace() and \s of `re` accept, to stand inside a class of a regular expression. */
export const SPACE = '\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000';

/** \w of `re`: letters, numbers and the underscore, but no combining marks. */
export const WORD = '\\p{L}\\p{N}_';

/** \b of `re`. */
export const BOUNDARY = `(?:(?<=[${WORD}])(?![${WORD}])|(?<![${WORD}])(?=[${WORD}]))`;

/** The look back keeps a run inside of the text from being tried from each of its characters. */
const ENDS = new RegExp(`^[${SPACE}]+|(?<![${SPACE}])[${SPACE}]+$`, 'gu');
const RUNS = new RegExp(`[${SPACE}]+`, 'gu');

/** str.strip() */
export function strip(text: string): string {
  return text.replace(ENDS, '');
}

/** Every run of white space as one blank. */
export function oneBlank(text: string): string {
  return text.replace(RUNS, ' ');
}
