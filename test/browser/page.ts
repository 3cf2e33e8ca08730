// A page in headless Chromium, driven over its DevTools protocol by Bun.WebView: one browser for a test file,
// with a profile of its own that is thrown away.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** The browser of this machine; undefined where there is none. */
export const CHROMIUM = ['chromium', 'chromium-browser', 'google-chrome']
  .map((name) => Bun.which(name))
  .find((path) => path !== null);

const FLAGS = [
  '--no-sandbox', // of no use to root, who runs the tests in containers
  '--disable-dev-shm-usage',
  '--disable-quic',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  // A foreign name that is pointed at this machine, as DNS rebinding does it.
  '--host-resolver-rules=MAP evil.example 127.0.0.1',
];

export class Page {
  /** What went wrong in the page: exceptions, errors on its console, refused or missing resources. */
  readonly faults: string[] = [];

  private constructor(
    private readonly view: Bun.WebView,
    private readonly folder: string,
  ) {}

  static async open(url: string): Promise<Page> {
    const folder = mkdtempSync(join(tmpdir(), 'microdiff-browser-'));
    const view = new Bun.WebView({
      width: 1000,
      height: 800,
      backend: { type: 'chrome', url: false, path: CHROMIUM!, argv: FLAGS },
      dataStore: { directory: join(folder, 'profile') },
    });
    const page = new Page(view, folder);
    await view.navigate('about:blank'); // there is nothing to listen to before
    const note = (fault: unknown) => page.faults.push(JSON.stringify(fault));
    view.addEventListener<object>('Runtime.exceptionThrown', ({ data }) => note(data));
    view.addEventListener<{ type: string }>('Runtime.consoleAPICalled', ({ data }) => {
      if (data.type === 'error' || data.type === 'warning') note(data);
    });
    view.addEventListener<{ entry: { level: string } }>('Log.entryAdded', ({ data }) => {
      if (data.entry.level === 'error' || data.entry.level === 'warning') note(data.entry);
    });
    await view.cdp('Runtime.enable');
    await view.cdp('Log.enable');
    const downloadPath = folder;
    await view.cdp('Browser.setDownloadBehavior', { behavior: 'allow', downloadPath });
    await view.navigate(url);
    return page;
  }

  /** Where downloads go. */
  get downloads(): string {
    return this.folder;
  }

  type(text: string): Promise<void> {
    return this.view.type(text);
  }

  press(key: string): Promise<void> {
    return this.view.press(key);
  }

  async click(selector: string): Promise<void> {
    await this.view.scrollTo(selector);
    await this.view.click(selector);
  }

  go(url: string): Promise<void> {
    return this.view.navigate(url);
  }

  /** The value of an expression in the page. */
  value<T>(expression: string): Promise<T> {
    return this.view.evaluate<T>(expression);
  }

  /** Text that is seen of the first element that matches; '' where there is none. */
  text(selector: string): Promise<string> {
    return this.value<string>(`document.querySelector(${JSON.stringify(selector)})?.innerText ?? ''`);
  }

  count(selector: string): Promise<number> {
    return this.value<number>(`document.querySelectorAll(${JSON.stringify(selector)}).length`);
  }

  /** Puts text in the place of what stands in a field. */
  async fill(selector: string, text: string): Promise<void> {
    await this.value(`document.querySelector(${JSON.stringify(selector)}).select()`);
    await this.type(text);
  }

  async until(there: () => Promise<boolean>): Promise<void> {
    while (!(await there())) await Bun.sleep(10);
  }

  /** As with the system's dark look, or without. */
  async scheme(value: 'light' | 'dark'): Promise<void> {
    const features = [{ name: 'prefers-color-scheme', value }];
    await this.view.cdp('Emulation.setEmulatedMedia', { features });
  }

  close(): void {
    this.view.close();
    Bun.WebView.closeAll();
    rmSync(this.folder, { recursive: true, force: true, maxRetries: 5 });
  }
}
