// Command: published weights, and what they need, into the caches that other programs share.

import { Failure } from '../io/failure.ts';
import { type Net, NET, Stopped } from '../io/hub/http.ts';
import { pullFile } from '../io/hub.ts';
import { hubSettings } from '../io/hub/settings.ts';
import { bool, int } from '../recipe/field.ts';
import { filesOf, findWeights, type Weights, withNeeds } from '../sample/registry.ts';
import { command, type Voice } from './command.ts';
import { flag, SHARED, usage } from './flags.ts';
import { watchSignals } from './interrupt.ts';
import { duration } from './progress.ts';
import { stdout } from './stdout.ts';
import { version } from './version.ts';

/** A file that is here now. */
interface Line {
  readonly name: string;
  readonly path: string;
  readonly file: string;
  readonly bytes: number;
  readonly sha256: string;
  readonly fresh: boolean;
}

export const pull = command({
  name: 'pull',
  summary: 'Downloads published weights and all that they need; what is here already is taken from there',
  flags: {
    only: flag(bool(false, 'Without what they need')),
    update: flag(bool(false, 'Take the newest revision, not the one that was downloaded first')),
    connections: flag(int(4, { min: 1, max: 32 }, 'Connections at a time for one file'), { hint: 'N' }),
    json: SHARED.json,
  },
  args: [{ name: 'name', meaning: 'A name of `microdiff list`', required: true, many: true }],
  examples: [
    ['microdiff pull microdit-37m', "checkpoint, autoencoder and text tower; prints the checkpoint's path"],
    ['HF_HUB_OFFLINE=1 microdiff pull sdxl-vae', 'the path of what is here, without the network'],
  ],
  async run({ args, values, log, progress }) {
    if (args.some((name) => name === '')) throw usage('name', 'is empty', 'See `microdiff list`');
    const entries = values.only ? args.map(findWeights) : withNeeds(args);
    const settings = hubSettings(process.env);
    const interrupt = watchSignals(log, 'stopping; the same command goes on from here');
    const control = new AbortController();
    interrupt.stopped.then(() => control.abort());
    const net: Net = {
      ...NET,
      token: settings.token,
      home: settings.endpoint,
      userAgent: `microdiff/${version}`,
      signal: control.signal,
      note: (line) => log.warn(line),
    };
    const lines: Line[] = [];
    try {
      for (const entry of entries) {
        tellLicence(entry, log);
        for (const file of filesOf(entry)) {
          const onProgress = meter(`${entry.name} ${file.path.split('/').at(-1)}`, progress);
          const { connections, update } = values;
          const got = await pullFile(file, settings, net, { connections, update, onProgress });
          progress.clear();
          log.info(
            `${entry.name}: ${got.path} (${size(got.bytes)}, ${got.fresh ? 'downloaded' : 'was here'})`,
          );
          const { bytes, sha256, fresh } = got;
          lines.push({ name: entry.name, path: file.path, file: got.path, bytes, sha256, fresh });
        }
      }
    } catch (error) {
      progress.clear();
      if (error instanceof Stopped && interrupt.exitCode !== undefined) return interrupt.exitCode;
      throw error;
    }
    if (values.json) stdout.write(`${JSON.stringify({ files: lines })}\n`);
    // The weights of each name alone, so that $(microdiff pull NAME) is a path.
    else for (const name of args) stdout.write(`${mainFile(lines, name)}\n`);
    return 0;
  },
});

function tellLicence(entry: Weights, log: Voice['log']): void {
  const { name, confirmed, address } = entry.licence;
  const line = `${entry.name}: ${entry.summary}; licence ${name}`;
  if (confirmed) log.info(`${line} (${address})`);
  else log.warn(`${line}, which microdiff has not read: read it at ${address} before you use or pass it on`);
}

function mainFile(lines: readonly Line[], name: string): string {
  const line = lines.find((one) => one.name === name);
  if (line) return line.file;
  throw new Failure({ what: name, why: 'has no file in the registry' });
}

/** Draws bytes as they come: `sdxl-vae config.json  120 MB of 335 MB  41.2 MB/s  5s left`. */
function meter(what: string, progress: Voice['progress']) {
  let start: { at: number; done: number; doing: string } | undefined;
  return (doing: 'download' | 'check', done: number, total: number) => {
    const at = performance.now();
    if (start?.doing !== doing) start = { at, done, doing };
    const seconds = (at - start.at) / 1000;
    const speed = seconds > 0.2 ? (done - start.done) / seconds : 0;
    const parts = [doing === 'check' ? `${what} (checking)` : what, `${size(done)} of ${size(total)}`];
    if (speed > 0) parts.push(`${size(speed)}/s`);
    if (speed > 0 && done < total) parts.push(`${duration((total - done) / speed)} left`);
    progress.show(parts.join('  '));
  };
}

/** Bytes in words: 12.3 kB, 4.66 GB. */
export function size(bytes: number): string {
  if (bytes < 1000) return `${Math.round(bytes)} B`;
  const unit = bytes < 1e6 ? 'kB' : bytes < 1e9 ? 'MB' : 'GB';
  const number = bytes / { kB: 1e3, MB: 1e6, GB: 1e9 }[unit];
  return `${number >= 999.5 ? Math.round(number) : number.toPrecision(3)} ${unit}`;
}
