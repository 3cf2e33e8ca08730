// The program itself on the stand-in GPU: training, sampling and doctor through the flags that a user has,
// and what it says and keeps when the GPU is lost, full, too old or not there.
import { afterAll, describe, expect, test } from 'bun:test';
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { type Ended, Place } from '../cpu/train/program.ts';
import { FOLDER } from './stand-in.ts';

const place = new Place();
afterAll(() => place.remove());

/** Compiled kernels of the stand-in are kept in a folder of their own. */
const ENV = {
  MICRODIFF_CUDA_PATH: FOLDER,
  MICRODIFF_DEVICE: 'auto',
  XDG_CACHE_HOME: place.at('cache'),
  SIM_QUIET: '1',
};

const program = (args: string, env: Record<string, string> = {}): Promise<Ended> =>
  place.run(args.split(' '), { ...ENV, ...env });

/** The last line of stderr, an error, with these words in it. */
function expectError(ended: Ended, code: number, ...words: string[]): void {
  const last = ended.err.trimEnd().split('\n').at(-1)!;
  expect(last).toMatch(/^error: /);
  for (const word of words) expect(last).toContain(word);
  expect([ended.code, ended.out]).toEqual([code, '']);
}

/** A folder with some of the stand-in libraries. */
function librariesIn(name: string, ...files: string[]): string {
  mkdirSync(place.at(name));
  for (const file of files) symlinkSync(`${FOLDER}/${file}`, place.at(name, file));
  return place.at(name);
}

/** Seven steps of two images, and a preview that costs next to nothing: the emulator is slow. */
writeFileSync(
  place.at('small.toml'),
  `model.preset = "nano"
data.source = [{ name = "shapes" }]
schedule.kind = "constant"
sample = { steps = 1, cfg_scale = 1.0 }
train = { batch_size = 2, log_every = 1, preview_prompts = ["circle"] }
stage = [{ name = "masked", steps = 4, mask_ratio = 0.5 }, { name = "unmasked", steps = 3, mask_ratio = 0.0 }]
`,
);
const TRAIN = 'train small.toml --device cuda --checkpoint-every 1 -o';

describe('training', () => {
  test('the whole recipe; kernels that the driver refuses are compiled here, once', async () => {
    const first = await program(`${TRAIN} whole`);
    expect([first.code, first.out]).toEqual([0, 'whole\n']);
    expect(first.err).toMatch(/compiling GPU kernels for sm_90 with NVRTC 13\.99: /);
    const again = await program(`${TRAIN} again`);
    expect(again.code).toBe(0);
    expect(again.err).not.toContain('compiling');
    expect(place.metrics('again')).toEqual(place.metrics('whole'));
    expect(place.metrics('whole')).toHaveLength(7);
  });

  test('with and without graphs', async () => {
    expect((await program(`${TRAIN} plain --no-graph`)).code).toBe(0);
    expect(place.metrics('plain')).toEqual(place.metrics('whole'));
  });

  test('a GPU that is lost in the midst: the checkpoint is whole, and the same command goes on', async () => {
    const lost = await program(`${TRAIN} lost`, { SIM_FAIL: 'cuGraphLaunch:5:719' });
    expectError(lost, 1, 'CUDA_ERROR_LAUNCH_FAILED', 'the last checkpoint is intact');
    const { step } = JSON.parse(
      place.read('lost', 'checkpoints', place.read('lost', 'latest').trim(), 'state.json'),
    );
    expect(step).toBeGreaterThan(1);
    expect(step).toBeLessThan(7);
    expect((await program(`${TRAIN} lost`)).code).toBe(0);
    expect(place.metrics('lost')).toEqual(place.metrics('whole'));
  });

  test('algorithms are chosen once a run; another library, and a damaged list, are refused', async () => {
    const path = place.at('whole', 'algorithms.json');
    const saved = readFileSync(path, 'utf8');
    const { device, library, products } = JSON.parse(saved);
    expect([device, library]).toEqual([
      expect.stringContaining('sm_90'),
      expect.stringContaining('cuBLASLt'),
    ]);
    expect(Object.keys(products).length).toBeGreaterThan(5);
    const resume = `${TRAIN} whole --steps 8`;
    writeFileSync(path, saved.replace(library, 'cuBLASLt 12.0'));
    const name = 'whole/algorithms.json';
    expectError(await program(resume), 3, name, 'was made on', 'cuBLASLt 12.0', 'remove the file');
    writeFileSync(path, saved.slice(0, 100));
    expectError(await program(resume), 1, name, 'remove the file');
    expect(place.metrics('whole')).toHaveLength(7);
    writeFileSync(path, saved);
    const onCpu = await program(`${resume.replace('--device cuda', '--device cpu')}`);
    expect([onCpu.code, onCpu.err]).toEqual([0, expect.stringContaining('goes on with other roundings')]);
  });

  test('a loss that stays non-finite: exit 4', async () => {
    const sets = ['optimizer.lr=1e30', 'optimizer.clip_norm=0', 'schedule.kind=warmup-constant'];
    const flags = [...sets, 'schedule.warmup_steps=0'].map((key) => `--set ${key}`).join(' ');
    const wild = await program(`${TRAIN} wild --steps 9 ${flags}`);
    expectError(wild, 4, '5 steps in a row had a loss or gradient that is not finite');
  });

  test('memory that runs out: how much was asked for, what is free, what to do', async () => {
    const full = await program(`${TRAIN} full`, { SIM_MEMORY: String(33 * 2 ** 20) });
    expectError(full, 1, 'the GPU has no memory for', 'MiB of 33.0 MiB are free', 'Lower train.micro_batch');
  });
});

describe('sampling', () => {
  /** Mean distance of two pictures in levels of 0 to 255. */
  async function distance(one: string, other: string): Promise<number> {
    const { createCanvas, loadImage } = await import('@napi-rs/canvas');
    const [a, b] = await Promise.all(
      [one, other].map(async (path) => {
        const image = await loadImage(place.at(path));
        const context = createCanvas(image.width, image.height).getContext('2d');
        context.drawImage(image, 0, 0);
        return context.getImageData(0, 0, image.width, image.height).data;
      }),
    );
    expect(a!.length).toBe(b!.length);
    return a!.reduce((sum, level, i) => sum + Math.abs(level - b![i]!), 0) / a!.length;
  }

  test('a trained model makes the same picture on the GPU as on the CPU; in bf16 nearly', async () => {
    const flags = 'sample -m whole --steps 2 --cfg-scale 2 --plain -o';
    const record = async (where: string, words: string) => {
      const { code, out, err } = await program(`${flags} ${where}.png ${words}`);
      expect([code, err.includes('error')]).toEqual([0, false]);
      return JSON.parse(out);
    };
    const gpu = await record('gpu', '--device cuda --precision fp32 circle');
    const cpu = await record('cpu', '--device cpu circle');
    await record('other', '--device cpu square --seed 1');
    await record('rounded', '--device cuda circle');
    expect(gpu.width).toBe(cpu.width);
    expect(await distance('gpu.png', 'cpu.png')).toBeLessThan(0.1);
    expect(await distance('rounded.png', 'cpu.png')).toBeLessThan(3);
    expect(await distance('other.png', 'cpu.png')).toBeGreaterThan(20);
  });
});

describe('machines that lack something', () => {
  const train = (env: Record<string, string>) => program('train small.toml --device cuda -o none', env);

  test('no GPU behind the driver', async () => {
    expectError(await train({ SIM_FAIL: 'cuInit:0:100' }), 3, 'CUDA_ERROR_NO_DEVICE', '--device cpu');
  });

  test('a GPU number that is not there', async () => {
    const ended = await program('train small.toml --device cuda:3 -o none');
    expectError(ended, 3, 'cuDeviceGet for device 3 of 1', 'microdiff doctor');
  });

  test('no cuBLASLt', async () => {
    const folder = librariesIn('driver-only', 'libcuda.so.1', 'libnvrtc.so.13', 'kernels_bf16.so');
    expectError(await train({ MICRODIFF_CUDA_PATH: folder }), 3, 'cannot load cuBLASLt', folder);
  });

  test('a cuBLASLt without the functions that are needed', async () => {
    const folder = librariesIn('wrong', 'libcuda.so.1', 'libnvrtc.so.13', 'kernels_bf16.so');
    symlinkSync(`${FOLDER}/libnvrtc.so.13`, `${folder}/libcublasLt.so.13`);
    expectError(await train({ MICRODIFF_CUDA_PATH: folder }), 3, 'cannot load cuBLASLt', 'cublasLtCreate');
  });

  test('a driver too old for the kernels, and no NVRTC', async () => {
    const folder = librariesIn('old', 'libcuda.so.1', 'libcublasLt.so.13', 'kernels_bf16.so');
    const ended = await train({ MICRODIFF_CUDA_PATH: folder, XDG_CACHE_HOME: place.at('other') });
    expectError(ended, 3, 'cannot be compiled here', 'Install NVIDIA driver 580 or newer');
  });
});

test('auto takes the GPU and says so; doctor shows it', async () => {
  const { code, err } = await program('train small.toml --device auto --steps 1 -o auto');
  expect([code, err.includes('device: cuda:0, Stand-in GPU (no hardware), 2 GiB')]).toEqual([0, true]);
  const command = [process.execPath, 'src/cli/main.ts', 'doctor', '--json'];
  const doctor = Bun.spawnSync(command, { env: { ...process.env, ...ENV } });
  const { gpu } = JSON.parse(doctor.stdout.toString());
  expect(gpu.devices[0]).toMatchObject({ name: 'Stand-in GPU (no hardware)', capability: 90 });
  expect(gpu.libraries.driver.path).toBe(`${FOLDER}/libcuda.so.1`);
});
