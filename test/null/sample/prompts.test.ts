// Prompts of a stream: plain lines, JSON lines, and every way in which a line can be bad.

import { describe, expect, test } from 'bun:test';
import { isBad, parsePrompt, promptsOfArguments, readPrompts } from '../../../src/sample/prompts.ts';

const parse = (text: string, plain = false) => parsePrompt({ index: 3, text }, plain);

describe('lines', () => {
  test('a plain line is a prompt without the spaces around it', () => {
    expect(parse('  a red apple \t')).toEqual({ index: 3, prompt: 'a red apple' });
    expect(parse('[a] "b" }')).toEqual({ index: 3, prompt: '[a] "b" }' });
  });

  test('a JSON line has fields of its own', () => {
    const line =
      '{"prompt":"a","negative_prompt":"","seed":0,"steps":1,"cfg_scale":-1.5,"sampler":"euler",' +
      '"guidance_interval":[0,5],"out":"x.png"}';
    expect(parse(line)).toEqual({
      index: 3,
      prompt: 'a',
      negative_prompt: '',
      seed: 0,
      steps: 1,
      cfg_scale: -1.5,
      sampler: 'euler',
      guidance_interval: [0, 5],
      out: 'x.png',
    });
    expect(parse(' {"prompt":"a"}')).toEqual({ index: 3, prompt: 'a' });
  });

  test('--plain turns JSON off', () => {
    expect(parse('{"prompt":"a"}', true)).toEqual({ index: 3, prompt: '{"prompt":"a"}' });
    expect(promptsOfArguments(['{a}', ''])).toEqual([
      { index: 0, prompt: '{a}' },
      { index: 1, error: 'the line is blank' },
    ]);
  });

  test.each([
    ['', 'the line is blank'],
    [' \t ', 'the line is blank'],
    ['{"prompt":', 'broken JSON: Unexpected EOF'],
    ['{}', 'prompt is missing'],
    ['{"prompt":""}', 'prompt is empty, got ""'],
    ['{"prompt":3}', 'prompt must be a text, got 3'],
    ['{"prompt":"a","sede":1}', 'unknown field "sede". Did you mean seed?'],
    ['{"prompt":"a","toString":1}', 'unknown field "toString"'],
    ['{"prompt":"a","seed":-1}', 'seed must be a whole number from 0 to 9007199254740991, got -1'],
    ['{"prompt":"a","seed":9007199254740992}', 'seed must be a whole number'],
    ['{"prompt":"a","seed":"1"}', 'seed must be a whole number'],
    ['{"prompt":"a","steps":0}', 'steps must be a whole number from 1, got 0'],
    ['{"prompt":"a","cfg_scale":"x"}', 'cfg_scale must be a number, got "x"'],
    ['{"prompt":"a","cfg_scale":null}', 'cfg_scale must be a number, got null'],
    ['{"prompt":"a","sampler":"Heun"}', 'sampler must be one of heun, euler, dpmpp2m, got "Heun"'],
    ['{"prompt":"a","guidance_interval":[2,1]}', 'guidance_interval must be [low, high]'],
    ['{"prompt":"a","guidance_interval":3}', 'guidance_interval must be [low, high]'],
    ['{"prompt":"a","out":""}', 'out must be a .png name inside -o, got ""'],
    ['{"prompt":"a","out":"../x.png"}', 'out must be'],
    ['{"prompt":"a","out":"/x.png"}', 'out must be'],
    ['{"prompt":"a","out":"x.txt"}', 'out must be'],
  ])('bad line %j', (text, error) => {
    const item = parse(text);
    expect(isBad(item) && item.error).toContain(error);
    expect(item.index).toBe(3);
  });

  test('a stream with CRLF, a byte order mark, bad bytes and no last newline', async () => {
    const bytes = Buffer.concat([
      Buffer.from('\uFEFFone\r\n\r\n{"prompt":"two"}\r\n'),
      Buffer.from([0xff, 0x0a]),
      Buffer.from('three'),
    ]);
    const items = [];
    for await (const item of readPrompts([bytes])) items.push(item);
    expect(items).toEqual([
      { index: 0, prompt: 'one' },
      { index: 1, error: 'the line is blank' },
      { index: 2, prompt: 'two' },
      { index: 3, error: 'the line is not UTF-8' },
      { index: 4, prompt: 'three' },
    ]);
  });
});
