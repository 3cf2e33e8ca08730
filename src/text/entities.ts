// Character references of HTML, decoded as Python's html.unescape does (the names come from `entities`).
import { decodeHTML, decodeHTMLStrict } from 'entities/decode';

/** What browsers show for numbers that name control characters: Windows-1252. */
const WINDOWS_1252: Readonly<Record<number, string>> = Object.fromEntries(
  [...'€\x81‚ƒ„…†‡ˆ‰Š‹Œ\x8dŽ\x8f\x90‘’“”•–—˜™š›œ\x9džŸ'].map((c, i) => [0x80 + i, c]),
);

const REFERENCE = /&(?:#([0-9]+);?|#[xX]([0-9a-fA-F]+);?|[^\t\n\f <&#;]{1,32};?)/gu;

/** Numbers that stand for nothing: control characters and code points that no text may hold. */
function isNothing(code: number): boolean {
  const control = (code >= 1 && code <= 8) || code === 11 || (code >= 14 && code <= 31) || code === 127;
  return control || (code >= 0xfdd0 && code <= 0xfdef) || (code & 0xfffe) === 0xfffe;
}

function numbered(code: number): string {
  if (code === 0 || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return '\ufffd';
  return WINDOWS_1252[code] ?? (isNothing(code) ? '' : String.fromCodePoint(code));
}

/** html.unescape: all references, also names without a semicolon where HTML 5 knows them so. */
export function unescapeHtml(text: string): string {
  if (!text.includes('&')) return text;
  return text.replace(REFERENCE, (whole, decimal?: string, hex?: string) => {
    if (decimal !== undefined) return numbered(Number.parseInt(decimal, 10));
    return hex === undefined ? decodeHTML(whole) : numbered(Number.parseInt(hex, 16));
  });
}

/** The characters of a name ('eacute'), or null where HTML 5 has no such name. */
export function namedCharacter(name: string): string | null {
  const reference = `&${name};`;
  const decoded = decodeHTMLStrict(reference);
  return decoded === reference ? null : decoded;
}
