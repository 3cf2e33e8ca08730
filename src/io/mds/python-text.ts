// Numbers and JSON as Python writes them, which is how the format's own library fills text columns and
// indexes.

/** repr(float): the shortest digits that give the number back, Python's choice of exponent. */
export function pythonFloat(value: number): string {
  if (Number.isNaN(value)) return 'nan';
  if (!Number.isFinite(value)) return value > 0 ? 'inf' : '-inf';
  if (Object.is(value, -0)) return '-0.0';
  if (value === 0) return '0.0';
  const [digits = '', power = '0'] = Math.abs(value).toExponential().split('e');
  const sign = value < 0 ? '-' : '';
  const exponent = Number(power);
  if (exponent < -4 || exponent >= 16) {
    return `${sign}${digits}e${exponent < 0 ? '-' : '+'}${String(Math.abs(exponent)).padStart(2, '0')}`;
  }
  const all = digits.replace('.', '');
  if (exponent < 0) return `${sign}0.${'0'.repeat(-exponent - 1)}${all}`;
  const whole = all.slice(0, exponent + 1).padEnd(exponent + 1, '0');
  return `${sign}${whole}.${all.slice(exponent + 1) || '0'}`;
}

/**
 * json.dumps(value): blanks after commas and colons, everything beyond ASCII escaped. Numbers without a
 * fraction are written as integers; `sortKeys` as Python sorts them, by code points.
 */
export function pythonJson(value: unknown, sortKeys = false): string {
  if (typeof value === 'string') return pythonString(value);
  if (typeof value === 'number') return jsonNumber(value);
  if (typeof value === 'boolean' || typeof value === 'bigint') return String(value);
  if (value === null || value === undefined) return 'null';
  if (Array.isArray(value)) return `[${value.map((v) => pythonJson(v, sortKeys)).join(', ')}]`;
  const keys = Object.keys(value);
  if (sortKeys) keys.sort(byCodePoint);
  const fields = keys.map((key) => {
    const field: unknown = Reflect.get(value, key);
    return `${pythonString(key)}: ${pythonJson(field, sortKeys)}`;
  });
  return `{${fields.join(', ')}}`;
}

function jsonNumber(value: number): string {
  if (Number.isNaN(value)) return 'NaN';
  if (!Number.isFinite(value)) return value > 0 ? 'Infinity' : '-Infinity';
  return Number.isSafeInteger(value) && !Object.is(value, -0) ? String(value) : pythonFloat(value);
}

function pythonString(text: string): string {
  return JSON.stringify(text).replace(/[\u007f-\uffff]/g, (unit) => {
    return unit === '\u007f' ? unit : `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`;
  });
}

/** Stands before the words that JSON lacks while they are texts. */
const MARK = '\u0000number ';

/**
 * json.loads(text): JSON with NaN, Infinity and -Infinity, which json.dumps writes. Throws where it is
 * broken.
 */
export function readPythonJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    const marked = markNumbers(text);
    if (marked === null) throw error;
    return JSON.parse(marked, (key, value) => {
      if (key.startsWith(MARK)) throw error;
      return typeof value === 'string' && value.startsWith(MARK) ? Number(value.slice(MARK.length)) : value;
    });
  }
}

/** The text with those words in quotes, or null where it has none outside of strings. */
function markNumbers(text: string): string | null {
  let marked = '';
  let done = 0;
  for (let at = 0; at < text.length; at++) {
    if (text[at] === '"') {
      at++;
      while (at < text.length && text[at] !== '"') at += text[at] === '\\' ? 2 : 1;
      continue;
    }
    const word = ['NaN', 'Infinity', '-Infinity'].find((w) => text.startsWith(w, at));
    if (word === undefined) continue;
    marked += `${text.slice(done, at)}${JSON.stringify(MARK + word)}`;
    at += word.length - 1;
    done = at + 1;
  }
  return done === 0 ? null : marked + text.slice(done);
}

/** The order of Python's sorted(): by code points, not by UTF-16 units. */
export function byCodePoint(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}
