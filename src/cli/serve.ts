// Command: pictures over HTTP, with a page to ask for them.

import { int, text } from '../recipe/field.ts';
import { isLoopback } from '../serve/guard.ts';
import { ImageServer } from '../serve/server.ts';
import { type Call, command } from './command.ts';
import { flag, manyFlag, usage } from './flags.ts';
import { watchSignals } from './interrupt.ts';
import { ourselves } from './ourselves.ts';
import { ENGINE_FLAGS, serveEngine } from './serve-engine.ts';
import { stdout } from './stdout.ts';

const FLAGS = {
  ...ENGINE_FLAGS,
  host: flag(text('127.0.0.1', 'Address to listen on; one that others can reach needs a token'), {
    hint: 'ADDRESS',
  }),
  port: flag(int(8484, { min: 0, max: 65535 }, 'Port to listen on (0 = a free one)')),
  token: flag(
    text(undefined, 'Secret that clients must show; better in MICRODIFF_TOKEN, where `ps` does not see it'),
    { hint: 'SECRET' },
  ),
  'allow-host': manyFlag(text(undefined, 'A further name by which clients may call this server'), {
    hint: 'NAME',
  }),
  queue: flag(int(64, { min: 1, max: 100_000 }, 'The most pictures that may wait')),
  'max-count': flag(int(10, { min: 1, max: 1000 }, 'The most pictures of one request')),
  'max-steps': flag(int(250, { min: 1, max: 10_000 }, 'The most steps of a picture')),
};

export const serve = command({
  name: 'serve',
  summary: "Draws pictures over HTTP: a page for people, OpenAI's image API for programs",
  flags: FLAGS,
  examples: [
    ['microdiff serve', 'open http://127.0.0.1:8484/'],
    ['microdiff serve -m runs/mine --port 9000', 'another model, another port'],
    [
      'curl -s 127.0.0.1:8484/v1/images/generations --json \'{"prompt": "a red apple", "seed": 7}\'',
      'the picture as base64 in JSON',
    ],
    [
      'MICRODIFF_TOKEN=$(openssl rand -hex 32) microdiff serve --host 0.0.0.0',
      'for others too: clients send "Authorization: Bearer TOKEN"',
    ],
    ['ssh -L 8484:127.0.0.1:8484 box microdiff serve', 'on a rented box, and the page at home'],
  ],
  run: (call) => run(call),
});

async function run({ values, given, log }: Call<typeof FLAGS>): Promise<number> {
  const { MICRODIFF_TOKEN, ...env } = process.env;
  const names = values['allow-host'].map((name) => {
    if (/^[a-z0-9._-]+$/i.test(name)) return name.toLowerCase();
    throw usage('--allow-host', `${JSON.stringify(name)} is no name of a host`, 'Leave out scheme and port');
  });
  const interrupt = watchSignals(log, 'ending after the pictures in hand');
  const starting = ImageServer.start({
    host: values.host,
    port: values.port,
    names,
    token: values.token ?? (MICRODIFF_TOKEN || undefined),
    limits: { count: Math.min(values['max-count'], values.queue), steps: values['max-steps'] },
    queue: values.queue,
    command: [...ourselves(), serveEngine.name, ...engineWords(values, given)],
    env,
    warn: (line) => log.warn(line),
    detail: (line) => log.info(line),
  });
  const server = await Promise.race([starting, interrupt.stopped]);
  if (!server) return interrupt.exitCode!;
  log.info(`${server.facts!.model} on ${server.facts!.device}`);
  if (!isLoopback(values.host)) {
    log.warn('what is sent is not encrypted: put a proxy with TLS before it, or use ssh -L');
  }
  stdout.line(server.url);
  await interrupt.stopped;
  await server.stop();
  return interrupt.exitCode!;
}

/** The flags that were given and are the engine's. */
function engineWords(values: Call<typeof FLAGS>['values'], given: ReadonlySet<string>): string[] {
  const names = Object.keys({
    ...ENGINE_FLAGS,
    quiet: 0,
    verbose: 0,
    'no-color': 0,
  }) as (keyof typeof values)[];
  return names.filter((name) => given.has(name)).map((name) => `--${name}=${values[name]}`);
}
