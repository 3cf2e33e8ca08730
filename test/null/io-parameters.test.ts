// Image settings as PNG text: exact through `microdiff`, readable by and from other programs through
// `parameters`.

import { expect, test } from 'bun:test';
import { Failure } from '../../src/io/failure.ts';
import {
  formatParameters,
  type ImageSettings,
  parseParameters,
  settingsOf,
  settingsTexts,
} from '../../src/io/parameters.ts';

const SETTINGS: ImageSettings = {
  prompt: 'a red apple, fluent 3d style',
  negativePrompt: 'blurry',
  seed: 2 ** 53 - 1,
  steps: 30,
  cfgScale: 1.5,
  sampler: 'Heun',
  width: 64,
  height: 48,
  model: 'emoji, "small": 6M',
};
const VERSION = 'microdiff 0.1.0';
const parse = (text: string) => parseParameters('x.png', text);

test('the text is the one that others write', () => {
  expect(formatParameters(SETTINGS, VERSION)).toBe(
    'a red apple, fluent 3d style\nNegative prompt: blurry\nSteps: 30, Sampler: Heun, CFG scale: 1.5, ' +
      'Seed: 9007199254740991, Size: 64x48, Model: "emoji, \\"small\\": 6M", Version: microdiff 0.1.0',
  );
  expect(parse(formatParameters(SETTINGS, VERSION))).toEqual(SETTINGS);
  const { negativePrompt, ...plain } = SETTINGS;
  expect(parse(formatParameters(plain, VERSION))).toEqual(plain);
});

test('texts of other programs', () => {
  const text =
    'masterpiece, <lora:x:0.8>\nsecond: line, of: prompt\nNegative prompt: bad, hands\nworse\n' +
    'Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 1, Size: 512x768, Model hash: abc, Model: m, ' +
    'Lora hashes: "x: 1, y: 2", Hires: "unclosed, Version: v1.6';
  expect(parse(text)).toEqual({
    prompt: 'masterpiece, <lora:x:0.8>\nsecond: line, of: prompt',
    negativePrompt: 'bad, hands\nworse',
    seed: 1,
    steps: 20,
    cfgScale: 7,
    sampler: 'DPM++ 2M Karras',
    width: 512,
    height: 768,
    model: 'm',
  });
  expect(parse('only a prompt')).toEqual({ prompt: 'only a prompt' });
  expect(parse('a: b, c: d')).toEqual({ prompt: 'a: b, c: d' });
  expect(parse('')).toEqual({ prompt: '' });
});

test('the exact text wins and keeps what it does not know', () => {
  const settings = {
    ...SETTINGS,
    prompt: 'two\nlines\nNegative prompt: trap\u0000é',
    more: { guidance: [0.3, 5] },
  };
  const texts = settingsTexts(settings, VERSION);
  expect(texts.map(({ keyword }) => keyword)).toEqual(['parameters', 'microdiff']);
  const read = settingsOf('x.png', texts)!;
  expect(read).toEqual({ ...settings, more: { guidance: [0.3, 5], version: VERSION } });
  const again = settingsTexts(read as ImageSettings, 'microdiff 9');
  expect(settingsOf('x.png', again)!.more).toEqual({ guidance: [0.3, 5], version: 'microdiff 9' });
  expect(settingsOf('x.png', texts.slice(0, 1))!.seed).toBe(SETTINGS.seed);
  expect(settingsOf('x.png', [{ keyword: 'Comment', text: 'x' }])).toBeUndefined();
});

test('values that make no sense are refused by name', () => {
  const read = (text: string) => () => settingsOf('x.png', [{ keyword: 'microdiff', text }]);
  expect(read('{')).toThrow('x.png: its microdiff text is not JSON');
  for (const bad of [
    '"seed":-1',
    '"seed":1e300',
    '"steps":0',
    '"prompt":5',
    '"width":"64"',
    '"cfg_scale":null',
  ]) {
    expect(read(`{${bad}}`)).toThrow(Failure);
  }
  expect(read('{"cfg_scale":"NaN"}')).toThrow('x.png: its cfg_scale is "NaN", which makes no sense');
  const hostile = settingsOf('x.png', [
    { keyword: 'microdiff', text: '{"__proto__":{"seed":7},"constructor":1}' },
  ])!;
  expect(hostile.seed).toBeUndefined();
  expect(() => parse('p\nSteps: many, Sampler: a, Seed: 1')).toThrow('its steps is');
});

test('long hostile texts take no time', () => {
  const begin = performance.now();
  for (const unit of ['a', 'a:', 'a:"', 'a:"\\', '"', ',', 'a: b,', ' ', 'a b/'])
    parse(`p\n${unit.repeat(2 ** 20)}`);
  expect(performance.now() - begin).toBeLessThan(5000);
});
