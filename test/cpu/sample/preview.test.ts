// sample --preview: on a terminal, in a file, never on stdout; colours of latents that are not decoded.
import { expect, test } from 'bun:test';
import { existsSync, readFileSync } from 'node:fs';
import { readPngText } from '../../../src/io/png.ts';
import { Vae } from '../../../src/sample/autoencoder.ts';
import { latentColors } from '../../../src/sample/latent-colors.ts';
import { at, folder, MAIN, sample } from './sample-command.ts';

test('a file is replaced by what there is, at last by the pictures themselves; nothing else changes', () => {
  const args = ['a fox', '--count', '3', '--steps', '4', '-o', 'drawn/'];
  const plain = sample(args);
  const shown = sample([...args, '--preview', 'now.png']);
  expect([shown.code, shown.err]).toEqual([0, '']);
  expect(shown.records.map(({ seconds: _, ...r }) => r)).toEqual(
    plain.records.map(({ seconds: _, ...r }) => r),
  );
  expect(readPngText(at('now.png'))).toMatchObject({ width: 16, height: 16 });
  // One picture alone: the preview's last state is that picture's pixels.
  sample(['a fox', '--steps', '4', '-o', 'one.png', '--preview=now.png']);
  const pixelPart = (name: string) => readFileSync(at(name)).subarray(readFileSync(at(name)).indexOf('IDAT'));
  expect(pixelPart('now.png')).toEqual(pixelPart('one.png'));
});

test.each([
  [['--preview', 'x'], 'stderr is not a terminal. Name a file'],
  [['x', '--preview=now.txt'], 'is no .png name'],
  [['x', '--preview', 'nowhere/now.png'], 'there is no folder nowhere'],
  [['x', '--preview', 'a.png', '-o', './a.png'], 'is the picture itself'],
] as const)('%j is refused', (args, why) => {
  const { code, err } = sample(args);
  expect([code, err]).toEqual([2, expect.stringContaining(why)]);
  expect(existsSync(at('a.png'))).toBe(false);
});

// A bare root has no terminals to open.
test.skipIf(!existsSync('/dev/pts/ptmx'))(
  'a terminal shows it on stderr, and records stay whole',
  async () => {
    let said = '';
    const hear = (_: unknown, data: Uint8Array) => {
      said += new TextDecoder().decode(data);
    };
    const terminal = new Bun.Terminal({ data: hear, cols: 80, rows: 40 });
    const words = '-m m.safetensors "a fox" --preview --steps 3 -o t';
    const line = `exec "${process.execPath}" "${MAIN}" sample ${words} > t.jsonl`;
    const env = { ...process.env, MICRODIFF_DEVICE: 'cpu', TERM: 'xterm-256color', COLORTERM: 'truecolor' };
    for (const name of ['NO_COLOR', 'KITTY_WINDOW_ID', 'TERM_PROGRAM', 'TMUX'])
      Reflect.deleteProperty(env, name);
    expect(await Bun.spawn(['bash', '-c', line], { cwd: folder, env, terminal }).exited).toBe(0);
    await Bun.sleep(20);
    terminal.close();
    expect(said).toContain('▀');
    expect(said.split('\u001B[20A').length).toBeGreaterThan(1); // drawn over itself
    expect(JSON.parse(readFileSync(at('t.jsonl'), 'utf8'))).toMatchObject({ index: 0 });
  },
);

test('flat latents have the colour that the decoder gives them where it is a straight line', () => {
  // The decoder in place of a real one: red is twice channel 0, green minus channel 1, blue constant.
  const decode = (latent: ArrayLike<number>, { height, width }: { height: number; width: number }) => {
    const planes = new Float64Array(3 * 4 * height * width);
    const area = 4 * height * width;
    planes.fill(0.1 + 0.2 * latent[0]!, 0, area);
    planes.fill(-0.3 * latent[height * width]!, area, 2 * area);
    return planes.fill(0.5, 2 * area);
  };
  const config = { latent_channels: 2, scale: [1, 1], shift: [0, 0] };
  const vae = Object.assign(Object.create(Vae.prototype), { model: { config }, decode });
  const { data, width, height } = latentColors(vae)([9, 9, 9, 9, 1, -1, 2, 0], 1, { width: 2, height: 1 })!;
  const byte = (v: number) => Math.round((v + 1) * 127.5);
  expect([width, height]).toEqual([2, 1]);
  expect([...data]).toEqual([byte(0.3), byte(-0.6), byte(0.5), byte(-0.1), byte(0), byte(0.5)]);
});
