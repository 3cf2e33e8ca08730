// The text of a caption with HTML in it, as BeautifulSoup with Python's html.parser reads it. A parser of
// HTML 5 (parse5) would not do: it drops what follows an unclosed "<b bold text", which is kept there.
import { namedCharacter } from './entities.ts';
import { SPACE } from './unicode.ts';

/** Their text does not count. */
const HIDDEN = new Set(['script', 'style', 'template', 'rt', 'rp']);
/** Their content is no markup. */
const RAW = new Set(['script', 'style']);
const KEEPS_BLANKS = new Set(['pre', 'textarea']);
const EMPTY = new Set(
  (
    'area base br col embed hr img input keygen link menuitem meta param source track wbr ' +
    'basefont bgsound command frame image isindex nextid spacer'
  ).split(' '),
);

const NAME = '[a-zA-Z][^\\t\\n\\r\\f />\\0]*';
/** Python's \s. */
const S = `[${SPACE}]`;
const NOT_S = (more: string) => `[^${SPACE}${more}]`;
const AFTER = `(?:${S}|/(?!>))*`;
const ATTRIBUTE_NAME = `(?<=['"${SPACE}/])${NOT_S('/>')}${NOT_S('/=>')}*`;
const VALUE = `(?:'[^']*'|"[^"]*"|(?!['"])${NOT_S('>')}*)`;

/** Anchored at the place where it is tried. */
const at = (source: string, flags = '') => new RegExp(source, `yu${flags}`);
const TAG_NAME = at(`(${NAME})${AFTER}`);
const ATTRIBUTE = at(`${ATTRIBUTE_NAME}(?:${S}*=+${S}*${VALUE})?${AFTER}`);
const START_TAG = at(
  `<${NAME}(?:[${SPACE}/]*(?:${ATTRIBUTE_NAME}(?:${S}*=+${S}*${VALUE}${S}*)?${AFTER})*)?${S}*`,
);
const END_TAG = at(`</${S}*([a-zA-Z][-.a-zA-Z0-9:_]*)${S}*>`);
const ENTITY = at('&([a-zA-Z][-.a-zA-Z0-9]*)(?=[^a-zA-Z0-9])');
const NUMBER = at('&#([0-9]+|[xX][0-9a-fA-F]+)(?=[^0-9a-fA-F])');
const SECTION_NAME = at(`([a-zA-Z][-_.a-zA-Z0-9]*)${S}*`);

/** What lies between the tags, in order; text under hidden elements left out. */
class Soup {
  private text = '';
  private pending = '';
  private readonly open: string[] = [];
  private readonly closedEmpty: string[] = [];

  add(data: string): void {
    this.pending += data;
  }

  /** A run of nothing but blanks becomes one blank or one line break, save in <pre>. */
  flush(): void {
    const run = this.pending;
    this.pending = '';
    if (run !== '' && !this.open.some((tag) => HIDDEN.has(tag))) this.put(run);
  }

  /** Text that counts wherever it stands. */
  put(run: string): void {
    const blank = /^[ \n\t\f\r]*$/.test(run) && !this.open.some((tag) => KEEPS_BLANKS.has(tag));
    const short = run.includes('\n') ? '\n' : ' ';
    this.text += blank ? short : run;
  }

  start(tag: string, selfClosed: boolean): void {
    this.flush();
    this.open.push(tag);
    if (selfClosed || EMPTY.has(tag)) this.close(tag);
    if (EMPTY.has(tag) && !selfClosed) this.closedEmpty.push(tag);
  }

  end(tag: string): void {
    const known = this.closedEmpty.indexOf(tag);
    if (known >= 0) this.closedEmpty.splice(known, 1);
    else this.close(tag);
  }

  get result(): string {
    this.flush();
    return this.text;
  }

  private close(tag: string): void {
    this.flush();
    const place = this.open.lastIndexOf(tag);
    if (place >= 0) this.open.length = place;
  }
}

/** Reads as far as markup is whole; at the end what is left over is text. */
class Reader {
  private rest: string;
  private raw: RegExp | null = null;
  private rawTag = '';

  constructor(
    text: string,
    private readonly soup: Soup,
  ) {
    this.rest = text;
  }

  /** Twice over the text: the first time an unfinished piece stops it, the second time that is text. */
  run(end: boolean): void {
    const { soup, rest } = this;
    const n = rest.length;
    let i = 0;
    while (i < n) {
      const found = this.raw ? indexOf(rest, this.raw, i) : indexOf(rest, /[&<]/g, i);
      if (found < 0 && this.raw) break;
      const j = found < 0 ? n : found;
      if (i < j) soup.add(rest.slice(i, j));
      i = j;
      if (i === n) break;
      if (rest[i] === '<') {
        const next = this.markup(i);
        if (next === STOP || (next < 0 && !end)) break;
        i = next < 0 ? this.unfinished(i) : next;
        continue;
      }
      const next = this.reference(i, end);
      if (next === STOP) break;
      i = Math.abs(next);
      if (next < 0) break;
    }
    if (end && i < n && !this.raw) {
      soup.add(rest.slice(i));
      i = n;
    }
    this.rest = rest.slice(i);
  }

  /** An unfinished tag at the end of the text, up to the next bracket, is text. */
  private unfinished(i: number): number {
    const close = this.rest.indexOf('>', i + 1);
    const open = this.rest.indexOf('<', i + 1);
    const to = close >= 0 ? close + 1 : open >= 0 ? open : i + 1;
    this.soup.add(this.rest.slice(i, to));
    return to;
  }

  /** Place after the markup that begins at i; -1 where it does not end. */
  private markup(i: number): number {
    const { rest } = this;
    if (/^<[a-zA-Z]/.test(rest.slice(i, i + 2))) return this.startTag(i);
    if (rest.startsWith('</', i)) return this.endTag(i);
    if (rest.startsWith('<!--', i)) return this.skip(match(rest, /--\s*>/g, i + 4));
    if (rest.startsWith('<?', i)) return this.skip(match(rest, />/g, i + 2));
    if (rest.startsWith('<![', i)) return this.section(i);
    if (rest.startsWith('<!', i)) return this.skip(match(rest, />/g, i + 2));
    if (i + 1 >= rest.length) return STOP;
    this.soup.add('<');
    return i + 1;
  }

  private skip(to: number): number {
    if (to >= 0) this.soup.flush();
    return to;
  }

  /** <![CDATA[..]]> is text; other sections are not. */
  private section(i: number): number {
    const name = exec(SECTION_NAME, this.rest, i + 3)?.[1]?.toLowerCase() ?? '';
    if (['if', 'else', 'endif'].includes(name)) return this.skip(match(this.rest, /\]\s*>/g, i + 3));
    const to = match(this.rest, /\]\s*\]\s*>/g, i + 3);
    if (to < 0) return to;
    this.soup.flush();
    const content = this.rest.slice(i + 3, to).replace(/\]\s*\]\s*>$/, '');
    if (/^cdata\[/i.test(content)) this.soup.put(content.slice('cdata['.length));
    return to;
  }

  private startTag(i: number): number {
    const { rest, soup } = this;
    const to = wholeStartTag(rest, i);
    if (to < 0) return to;
    const head = exec(TAG_NAME, rest, i + 1)!;
    let k = i + 1 + head[0].length;
    while (k < to) {
      const attribute = exec(ATTRIBUTE, rest, k);
      if (!attribute) break;
      k += attribute[0].length;
    }
    const tail = rest.slice(k, to).trim();
    if (tail !== '>' && tail !== '/>') {
      soup.add(rest.slice(i, to));
      return to;
    }
    const tag = head[1]!.toLowerCase();
    soup.start(tag, tail === '/>');
    if (tail === '>' && RAW.has(tag)) {
      this.raw = new RegExp(`</${S}*${tag}${S}*>`, 'giu');
      this.rawTag = tag;
    }
    return to;
  }

  private endTag(i: number): number {
    const { rest, soup } = this;
    const close = rest.indexOf('>', i + 1);
    if (close < 0) return -1;
    const whole = exec(END_TAG, rest, i);
    const tag = whole?.[1]?.toLowerCase();
    if (this.raw && tag !== this.rawTag) {
      soup.add(rest.slice(i, close + 1));
      return close + 1;
    }
    if (tag !== undefined) {
      soup.end(tag);
      this.raw = null;
      return close + 1;
    }
    const loose = exec(TAG_NAME, rest, i + 2);
    if (loose) {
      soup.end(loose[1]!.toLowerCase());
      return rest.indexOf('>', i + 2 + loose[0].length) + 1;
    }
    return rest.startsWith('</>', i) ? i + 3 : this.skip(close + 1);
  }

  /** Place after the reference at i; negative: and there the reading stops. */
  private reference(i: number, end: boolean): number {
    const { rest, soup } = this;
    const number = exec(NUMBER, rest, i);
    const entity = exec(ENTITY, rest, i);
    const found = number ?? entity;
    if (found) {
      soup.add(number ? numbered(number[1]!) : (namedCharacter(found[1]!) ?? `&${found[1]}`));
      const to = i + found[0].length;
      return rest[to] === ';' ? to + 1 : to;
    }
    if (rest.startsWith('&#', i)) {
      if (!rest.includes(';', i)) return STOP;
      soup.add('&#');
      return -(i + 2);
    }
    if (/^&[a-zA-Z]/.test(rest.slice(i, i + 2))) {
      return end && i + 2 === rest.length ? -(i + 1) : STOP;
    }
    if (i + 1 >= rest.length) return STOP;
    soup.add('&');
    return i + 1;
  }
}

/** The reading stops where it is. */
const STOP = Number.NEGATIVE_INFINITY;

/** Place after the start tag at i; -1 where the text ends in it. */
function wholeStartTag(text: string, i: number): number {
  const j = i + exec(START_TAG, text, i)![0].length;
  const next = text[j];
  if (next === '>') return j + 1;
  if (next === '/') return text.startsWith('/>', j) ? j + 2 : -1;
  if (next === undefined || /[a-zA-Z=]/.test(next)) return -1;
  return j > i ? j : i + 1;
}

/** Numbers below 256 are Windows-1252, as browsers have it. */
function numbered(reference: string): string {
  const hex = /^x/i.test(reference);
  const code = Number.parseInt(hex ? reference.slice(1) : reference, hex ? 16 : 10);
  if (code > 0x10ffff) return '\ufffd';
  if (code < 0x80 || code > 0x9f)
    return code > 0xffff ? String.fromCodePoint(code) : String.fromCharCode(code);
  return new TextDecoder('windows-1252').decode(Uint8Array.of(code));
}

function exec(pattern: RegExp, text: string, place: number): RegExpExecArray | null {
  pattern.lastIndex = place;
  return pattern.exec(text);
}

function indexOf(text: string, pattern: RegExp, from: number): number {
  pattern.lastIndex = from;
  return pattern.exec(text)?.index ?? -1;
}

/** Place after the first match from `from` on; -1 without one. */
function match(text: string, pattern: RegExp, from: number): number {
  pattern.lastIndex = from;
  return pattern.exec(text) ? pattern.lastIndex : -1;
}

/** BeautifulSoup(html, 'html.parser').text */
export function textOfMarkup(html: string): string {
  if (!/[&<]/.test(html)) return html;
  const soup = new Soup();
  const reader = new Reader(html, soup);
  reader.run(false);
  reader.run(true);
  return soup.result;
}
