// The command prepare: hundreds of pictures with broken ones and doubles among them, killed on the way, from
// every kind of source; and a set of latents and captions that training takes.
import { afterAll, beforeAll, describe, expect, test } from 'bun:test';
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { MdsSet } from '../../src/io/mds/set.ts';
import { encodePng } from '../../src/io/png.ts';
import { fromQ8, q8Bytes } from '../../src/io/q8.ts';
import { ColumnCounter } from '../../src/prepare/column-stats.ts';
import { writeTinyParts } from './sample/tiny-parts.ts';
import { Place } from './train/program.ts';

const place = new Place();
afterAll(() => place.remove());

const COUNT = 300;
const isBroken = (i: number) => i % 100 === 50;
const isDouble = (i: number) => i === 120;

function picture(i: number): Uint8Array {
  const [width, height] = [16 + ((i * 7) % 17), 16 + ((i * 13) % 17)];
  const data = Uint8Array.from({ length: width * height * 3 }, (_, k) => (i * 31 + k * (1 + (i % 7))) % 256);
  const png = encodePng({ width, height, channels: 3, data });
  return isBroken(i) ? png.subarray(0, png.length >> 1) : png;
}

const nameOf = (i: number) => `${String(i).padStart(4, '0')}`;
const captionOf = (i: number) => `picture number ${i}`;

beforeAll(() => {
  mkdirSync(place.at('photos/more'), { recursive: true });
  for (let i = 0; i < COUNT; i++) {
    const at = place.at('photos', i < 200 ? nameOf(i) : `more/${nameOf(i)}`);
    writeFileSync(`${at}.png`, picture(isDouble(i) ? 7 : i));
    if (i !== 33) writeFileSync(`${at}.txt`, captionOf(i));
  }
  writeTinyParts(place.folder);
});

/** Command lines that end in one line of JSON. */
async function prepare(...args: string[]) {
  const { code, out, err } = await place.run(['prepare', ...args]);
  return { code, err, record: out === '' ? null : JSON.parse(out) };
}

const WRITTEN = COUNT - 3 - 1 - 1;
const BOTH_LARGE = Array.from({ length: COUNT }, (_, i) => i).filter(
  (i) => (i * 7) % 17 === 16 && (i * 13) % 17 === 16 && !isBroken(i) && !isDouble(i) && i !== 33,
).length;
const SMALL = ['--size', '16', '--hashes', 'sha1'];

test('a folder: order, captions, and every picture that is left out by name', async () => {
  const { code, record, err } = await prepare('photos', '-o', 'set', ...SMALL);
  expect([code, record]).toEqual([
    0,
    {
      ...{ folder: 'set', items: COUNT, written: WRITTEN, samples: WRITTEN },
      dropped: { 'no caption': 1, damaged: 3, duplicate: 1 },
    },
  ]);
  expect(err).toContain(`${WRITTEN} of ${COUNT} pictures are in set`);
  expect(err).toContain('\n  width / height  0.5 ');
  expect(err).not.toContain('were enlarged');
  const { histograms } = JSON.parse(place.read('set', 'report.json'));
  expect(histograms.shorter_edge.edges.slice(0, 3)).toEqual([0, 16, 32]);
  // Edges of 16 to 32 pixels: the last bin is that of both edges 32.
  expect(histograms.shorter_edge.counts.slice(1, 4)).toEqual([WRITTEN - BOTH_LARGE, BOTH_LARGE, 0]);
  expect(histograms.caption_characters.counts.slice(0, 3)).toEqual([0, WRITTEN, 0]);
  const dropped = place
    .read('set', 'dropped.jsonl')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  expect(dropped.map(({ place: at, reason }) => [at, reason])).toEqual([
    [33, 'no caption'],
    [50, 'damaged'],
    [120, 'duplicate'],
    [150, 'damaged'],
    [250, 'damaged'],
  ]);
  expect(dropped[2].why).toBe('the same bytes as photos/0007.png');
  using set = MdsSet.open(place.at('set'));
  expect([set.count, set.value(0, 'caption'), set.value(33, 'caption')]).toEqual([
    WRITTEN,
    captionOf(0),
    captionOf(34),
  ]);
  expect(existsSync(place.at('set/sheet.png'))).toBe(true);
  const page = await place.run(['data', 'inspect', 'set', '-o', 'inspected.png']);
  expect(page.out).toContain(`  png 16 x 16: ${WRITTEN}\n`);
});

test('killed twice and gone on with, it is the set of a run in one go', async () => {
  // One shard a megabyte: the pictures are larger here, so that there are several.
  const args = ['prepare', 'photos', '-o', 'killed', '--size', '128', '--shard-size', '1'];
  for (const ms of [900, 1200]) {
    const child = place.start(args);
    setTimeout(() => child.kill(9), ms);
    await child.exited;
  }
  expect((await place.run(args)).code).toBe(0);
  const whole = args.map((word) => (word === 'killed' ? 'whole' : word));
  expect((await place.run(whole)).code).toBe(0);
  const files = place.hashes('whole');
  expect(place.hashes('killed')).toEqual(files);
  expect(Object.keys(files)).toContain('sheet.png');
  expect(Object.keys(files).filter((name) => name.endsWith('.mds')).length).toBeGreaterThan(2);
});

test('other options on the same folder are refused, a finished set is left alone', async () => {
  const other = await prepare('photos', '-o', 'set', '--size', '8');
  expect([other.code, other.err]).toEqual([
    2,
    'error: set: was begun with size = "16", not "8". Use the same options, or another -o\n',
  ]);
  const before = place.hashes('set');
  expect((await prepare('photos', '-o', 'set', ...SMALL)).record.written).toBe(WRITTEN);
  expect(place.hashes('set')).toEqual(before);
});

describe('sources', () => {
  const wanted = [3, 4, 50];
  const captions = (folder: string) => {
    using set = MdsSet.open(place.at(folder));
    return Array.from({ length: set.count }, (_, i) => set.value(i, 'caption'));
  };

  test.each(['csv', 'tsv', 'jsonl', 'tar', 'mds'] as const)('%s', async (kind) => {
    const rows = wanted.map((i) => ({ file_name: `photos/${nameOf(i)}.png`, text: captionOf(i) }));
    const source = kind === 'mds' ? 'set' : `list.${kind}`;
    if (kind === 'csv') write(source, ['file_name,text', ...rows.map((r) => `${r.file_name},"${r.text}"`)]);
    if (kind === 'tsv') write(source, ['file_name\ttext', ...rows.map((r) => `${r.file_name}\t${r.text}`)]);
    if (kind === 'jsonl')
      write(
        source,
        rows.map((r) => JSON.stringify(r)),
      );
    if (kind === 'tar') {
      const names = wanted.flatMap((i) => [`${nameOf(i)}.png`, `${nameOf(i)}.txt`]);
      const made = Bun.spawnSync(['tar', '-cf', place.at(source), ...names], { cwd: place.at('photos') });
      expect(made.exitCode).toBe(0);
    }
    const { code, record } = await prepare(
      source,
      '-o',
      `of-${kind}`,
      '--image-column',
      kind === 'mds' ? 'image_16' : 'file_name',
      ...SMALL,
    );
    expect(code).toBe(0);
    if (kind === 'mds') expect(record.written).toBe(WRITTEN);
    else {
      expect(record).toMatchObject({ items: 3, written: 2, dropped: { damaged: 1 } });
      expect(captions(`of-${kind}`)).toEqual([captionOf(3), captionOf(4)]);
    }
  });

  test('several captions: one, all, joined', async () => {
    write('many.jsonl', [JSON.stringify({ image: 'photos/0001.png', captions: ['one', 'two', 'one'] })]);
    for (const [mode, want] of [
      ['first', ['one']],
      ['all', ['one', 'two']],
      ['join', ['one two one']],
    ] as const) {
      expect((await prepare('many.jsonl', '-o', `many-${mode}`, '--captions', mode, ...SMALL)).code).toBe(0);
      expect(captions(`many-${mode}`)).toEqual([...want]);
    }
  });

  test('of a folder --caption-column is a key of the JSON beside a picture', async () => {
    mkdirSync(place.at('keys'));
    for (const i of [1, 2]) {
      cpSync(place.at('photos', `${nameOf(i)}.png`), place.at('keys', `${i}.png`));
      writeFileSync(place.at('keys', `${i}.txt`), `text ${i}`);
    }
    writeFileSync(place.at('keys/1.json'), JSON.stringify({ caption: 'usual', long: 'asked for' }));
    const made = await prepare('keys', '-o', 'of-keys', '--caption-column', 'long', '--size', '64');
    expect(captions('of-keys')).toEqual(['asked for', 'text 2']);
    expect(made.err).toContain('2 were enlarged');
    expect(made.err).toContain('picture 2/2');
  });

  test('addresses: 404, a second try, other schemes, none without --allow-urls', async () => {
    const png = picture(1);
    let asked = 0;
    using server = Bun.serve({
      port: 0,
      hostname: '127.0.0.1',
      fetch(request) {
        const { pathname } = new URL(request.url);
        if (pathname === '/404.png') return new Response('gone', { status: 404 });
        return asked++ === 0 ? new Response('later', { status: 503 }) : new Response(png);
      },
    });
    const images = [`${server.url}404.png`, 'ftp://host/a.png', `${server.url}good.png`];
    write(
      'urls.jsonl',
      images.map((url) => JSON.stringify({ url, caption: 'far' })),
    );
    const none = await prepare('urls.jsonl', '-o', 'far', ...SMALL);
    expect([none.code, none.err]).toEqual([1, expect.stringContaining('--allow-urls is not given')]);
    // Nothing was written: the folder can be begun with other options.
    const { record } = await prepare('urls.jsonl', '-o', 'far', '--allow-urls', ...SMALL);
    expect(record).toMatchObject({ items: 3, written: 1, dropped: { download: 2 } });
    const whys = place.read('far', 'dropped.jsonl').trim().split('\n');
    expect(whys.map((line) => JSON.parse(line).why)).toEqual([
      'the server says 404',
      'addresses of ftp are not read, only http and https',
    ]);
    expect(asked).toBe(2);
  });

  test('what is no source, has no column, or gives nothing', async () => {
    write('bad.csv', ['a,b', '1,2']);
    write('none.jsonl', [JSON.stringify({ image: 'gone.png', text: 'x' })]);
    expect((await prepare('bad.csv', '-o', 'x1')).err).toContain('has no column for pictures or captions');
    const gone = await prepare('none.jsonl', '-o', 'x2');
    expect([gone.code, gone.err]).toEqual([1, expect.stringContaining('none of 1 items can be used')]);
    const missing = await prepare('nowhere', '-o', 'x3');
    expect([missing.code, missing.err]).toEqual([1, expect.stringContaining('nowhere')]);
    expect((await prepare('photos', '-o', 'x4', '--shard', '3/3')).code).toBe(2);
  });

  function write(name: string, lines: readonly string[]): void {
    writeFileSync(place.at(name), `${lines.join('\n')}\n`);
  }
});

test('two machines make two parts that merge into all of it', async () => {
  for (const part of ['0/2', '1/2']) {
    expect(
      (await prepare('photos', '-o', 'parts', '--shard', part, '--keep-duplicates', ...SMALL)).code,
    ).toBe(0);
  }
  const merge = [process.execPath, join(import.meta.dir, '../../src/cli/main.ts'), 'data', 'merge', 'parts'];
  expect(Bun.spawnSync(merge, { cwd: place.folder }).exitCode).toBe(0);
  using set = MdsSet.open(place.at('parts'));
  expect(set.count).toBe(WRITTEN + 1);
});

describe('latents and captions for training', () => {
  const few = () => {
    mkdirSync(place.at('few'), { recursive: true });
    for (let i = 0; i < 8; i++)
      for (const end of ['png', 'txt']) {
        cpSync(place.at('photos', `${nameOf(i)}.${end}`), place.at('few', `${nameOf(i)}.${end}`));
      }
  };

  test('through autoencoder and text tower: drawn latents depend on seed and place alone', async () => {
    few();
    const args = ['few', '--size', '64,128', '--vae', 'vae.safetensors', '--clip', 'clip.safetensors'];
    expect((await prepare(...args, '-o', 'latents')).code).toBe(0);
    expect((await prepare(...args, '-o', 'again')).code).toBe(0);
    expect(place.hashes('again')['shard.00000.mds']).toBe(place.hashes('latents')['shard.00000.mds']!);
    rmSync(place.at('again'), { recursive: true });
    expect((await prepare(...args, '-o', 'again', '--seed', '1')).code).toBe(0);
    expect(place.hashes('again')['shard.00000.mds']).not.toBe(place.hashes('latents')['shard.00000.mds']!);
    using set = MdsSet.open(place.at('latents'));
    const sample = set.sample(2);
    // The tiny autoencoder halves the sides.
    expect(Object.entries(sample).map(([name, v]) => [name, v instanceof Uint8Array ? v.length : v])).toEqual(
      [
        ['caption', captionOf(2)],
        ['caption_latents', 2 * 77 * 8],
        ['latents_128', 2 * 4 * 64 * 64],
        ['latents_64', 2 * 4 * 32 * 32],
      ],
    );
  });

  test('states in 8 bits take half the space and are near', async () => {
    few();
    const args = ['few', '--size', '64', '--vae', 'vae.safetensors', '--clip', 'clip.safetensors'];
    expect((await prepare(...args, '-o', 'sixteen')).code).toBe(0);
    expect((await prepare(...args, '-o', 'eight', '--captions-as', 'states8')).code).toBe(0);
    const [whole, eight] = ['sixteen', 'eight'].map((name) => MdsSet.open(place.at(name)));
    const counter = new ColumnCounter({ name: 'caption_latents_q8', encoding: 'bytes', size: null });
    for (let i = 0; i < 8; i++) {
      const states = new Float16Array((whole!.value(i, 'caption_latents') as Uint8Array).slice().buffer);
      const packed = eight!.value(i, 'caption_latents_q8') as Uint8Array;
      expect(packed.length).toBe(q8Bytes(states.length));
      counter.add(packed, packed);
      const near = new Float16Array(fromQ8(packed).buffer);
      const power = states.reduce((sum, x) => sum + x * x, 0);
      expect(states.reduce((sum, x, n) => sum + (x - near[n]!) ** 2, 0) / power).toBeLessThan(1e-4);
    }
    whole!.close();
    eight!.close();
    expect(counter.stats()).toMatchObject({
      guess: { kind: 'caption states', dtype: 'q8', shape: [77, 8] },
      numbers: { count: 8 * 616, nan: 0 },
    });
  });

  test('how many are encoded at a time, and by how many threads, changes no byte', async () => {
    few();
    // Doubles of the first and of one in the same batch, and more captions than pictures.
    cpSync(place.at('few', `${nameOf(0)}.png`), place.at('few', '0009.png'));
    cpSync(place.at('few', `${nameOf(7)}.png`), place.at('few', '0008.png'));
    for (const name of ['0008', '0009']) writeFileSync(place.at('few', `${name}.txt`), 'again');
    writeFileSync(place.at('few', '0003.json'), JSON.stringify({ captions: ['one', 'two', 'three'] }));
    const args = ['few', '--size', '64,32', '--vae', 'vae.safetensors', '--clip', 'clip.safetensors'];
    const made = await Promise.all(
      [
        ['1', '1'],
        ['3', '2'],
        ['0', '3'],
      ].map(async ([batch = '', workers = '']) => {
        const out = `batch-${batch}`;
        const how = ['--captions', 'all', '--batch-size', batch, '--workers', workers];
        const { code, record } = await prepare(...args, '-o', out, ...how);
        expect([code, record.samples, record.dropped]).toEqual([0, 11, { duplicate: 2 }]);
        return place.hashes(out);
      }),
    );
    expect(Object.keys(made[0]!)).toContain('sheet.png');
    expect(made[1]).toEqual(made[0]!);
    expect(made[2]).toEqual(made[0]!);
    rmSync(place.at('few'), { recursive: true });
  });

  test('pictures whose numbers are not finite are left out by name', async () => {
    few();
    const { code, err } = await prepare('few', '-o', 'nan', '--size', '32', '--vae', 'nan.safetensors');
    expect([code, err]).toEqual([1, expect.stringContaining('none of 8 items can be used')]);
    const notes = place.read('nan', 'items.unfinished.jsonl').trim().split('\n');
    expect(notes.map((line) => JSON.parse(line).reason)).toEqual(notes.map(() => 'not finite'));
  });

  test('token ids stand in 16 bits each', async () => {
    few();
    const args = [
      'few',
      '-o',
      'tokens',
      '--size',
      '64',
      '--vae',
      'vae16.safetensors',
      '--captions-as',
      'tokens',
    ];
    const made = await prepare(...args);
    expect([made.code, made.err.includes('no contact sheet')]).toEqual([0, false]);
    expect(existsSync(place.at('tokens/sheet.png'))).toBe(true); // 16 channels, not 4 of twice the side
    using set = MdsSet.open(place.at('tokens'));
    const ids = set.value(0, 'caption_tokens');
    expect(ids instanceof Uint8Array && new Uint16Array(ids.slice().buffer)[0]).toBe(49406);
    expect(readFileSync(place.at('tokens/report.json'), 'utf8')).toContain('"written": 8');
  });
});
