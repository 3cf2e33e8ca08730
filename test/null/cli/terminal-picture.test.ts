// Pictures on terminals: which protocol, cells that keep the shape, and the very bytes of each.
import { expect, test } from 'bun:test';
import { cellsFor, drawn, graphicsOf } from '../../../src/cli/terminal-picture.ts';
import { sheetOf } from '../../../src/sample/pixels.ts';

const pixels = {
  width: 2,
  height: 2,
  channels: 3 as const,
  data: Uint8Array.from([255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 255]),
};
const png =
  (length = 3) =>
  () =>
    new Uint8Array(length).fill(7);

test('the protocol follows from the environment', () => {
  expect(graphicsOf({ TERM: 'xterm-kitty' })).toBe('kitty');
  expect(graphicsOf({ TERM: 'xterm-ghostty' })).toBe('kitty');
  expect(graphicsOf({ TERM: 'xterm-256color', TERM_PROGRAM: 'iTerm.app' })).toBe('iterm2');
  expect(graphicsOf({ TERM: 'tmux-256color', KITTY_WINDOW_ID: '1', COLORTERM: 'truecolor' })).toBe(
    'truecolor',
  );
  expect(graphicsOf({ TERM: 'xterm-256color' })).toBe('256');
  expect(graphicsOf({ TERM: 'dumb' })).toBeNull();
  expect(graphicsOf({})).toBeNull();
  expect(graphicsOf({ TERM: 'xterm', NO_COLOR: '1' })).toBeNull();
});

test('cells are twice as high as wide', () => {
  expect(cellsFor({ width: 32, height: 32 }, { columns: 64, rows: 20 })).toEqual({ columns: 40, rows: 20 });
  expect(cellsFor({ width: 64, height: 32 }, { columns: 64, rows: 20 })).toEqual({ columns: 64, rows: 16 });
  expect(cellsFor({ width: 1000, height: 1 }, { columns: 10, rows: 20 })).toEqual({ columns: 10, rows: 1 });
});

test('half blocks: upper pixel in front, lower one behind', () => {
  const cells = { columns: 2, rows: 1 };
  expect(drawn('truecolor', pixels, png(), cells)).toBe(
    '\u001B[38;2;255;0;0;48;2;0;0;255m▀\u001B[38;2;0;255;0;48;2;255;255;255m▀\u001B[0m\n',
  );
  expect(drawn('256', pixels, png(), cells)).toBe(
    '\u001B[38;5;196;48;5;21m▀\u001B[38;5;46;48;5;231m▀\u001B[0m\n',
  );
  // Averages where a cell holds more pixels.
  expect(drawn('truecolor', pixels, png(), { columns: 1, rows: 1 })).toBe(
    '\u001B[38;2;128;128;0;48;2;128;128;255m▀\u001B[0m\n',
  );
});

test('kitty and iTerm2 get the PNG, and the cursor goes below it', () => {
  const small = drawn('kitty', pixels, png(), { columns: 4, rows: 2 });
  expect(small).toBe('\u001B_Ga=T,f=100,i=20231,p=1,q=2,C=1,c=4,r=2,m=0;BwcH\u001B\\\n\n');
  const chunks = drawn('kitty', pixels, png(6000), { columns: 4, rows: 1 }).split('\u001B\\');
  expect(chunks.map((chunk) => chunk.length > 4096)).toEqual([true, false, false]);
  expect(chunks[1]).toStartWith('\u001B_Gm=0;');
  expect(drawn('iterm2', pixels, png(), { columns: 4, rows: 1 })).toBe(
    '\u001B]1337;File=inline=1;width=4;height=1;preserveAspectRatio=1;doNotMoveCursor=1:BwcH\u0007\n',
  );
});

test('a sheet of a batch', () => {
  const sheet = sheetOf([pixels, pixels, pixels]);
  expect([sheet.width, sheet.height]).toEqual([4, 4]);
  expect([...sheet.data.subarray(0, 12)]).toEqual([255, 0, 0, 0, 255, 0, 255, 0, 0, 0, 255, 0]);
  expect([...sheet.data.subarray(24 + 6, 36)]).toEqual([0, 0, 0, 0, 0, 0]);
  expect(sheetOf([pixels])).toBe(pixels);
});
