// The files of the page, inside the executable: their bytes by the path that they are asked for.
import icon from './icon.svg' with { type: 'text' };
import style from './page.css' with { type: 'text' };
import html from './page.html' with { type: 'text' };
import script from './page.js' with { type: 'text' };

export interface PageFile {
  readonly body: string;
  readonly type: string;
}

export const PAGE: Readonly<Record<string, PageFile>> = {
  // bun-types takes every .html for a bundle; as text it is one.
  '/': { body: String(html), type: 'text/html; charset=utf-8' },
  '/icon.svg': { body: icon, type: 'image/svg+xml' },
  '/page.css': { body: style, type: 'text/css; charset=utf-8' },
  '/page.js': { body: script, type: 'text/javascript; charset=utf-8' },
};
