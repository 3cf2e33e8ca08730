// The kernel sources through a real NVRTC, where this machine has one: what a box does whose driver does not
// take the embedded machine code. No GPU is needed to compile.
import { describe, expect, test } from 'bun:test';
import { existsSync } from 'node:fs';
import { embeddedGpuCode } from '../../ffi/gpu-code.ts';
import { Nvrtc, openNvrtcLibrary } from '../../ffi/nvrtc.ts';
import { candidates, loaderReason } from '../../ffi/places.ts';
import { Failure } from '../../src/io/failure.ts';

/** Real ones alone: a stand-in for tests lies in build/sim. */
const paths = candidates('nvrtc').filter((path) => existsSync(path) && !path.includes('build/sim'));
const reason = await loaderReason();

describe.skipIf(paths.length === 0)(`NVRTC at ${paths[0]}`, () => {
  const nvrtc = () => new Nvrtc(openNvrtcLibrary(paths, reason));
  const target = () => (nvrtc().architectures.includes(90) ? 'sm_90' : 'compute_80');

  for (const mode of ['bf16', 'f32'] as const) {
    test(`compiles the kernels of ${mode} without a word`, async () => {
      for (const { source, options, exact } of await embeddedGpuCode(mode)) {
        const flags = [...options, `--gpu-architecture=${target()}`];
        const { image, log } = nvrtc().compile({ name: 'kernels.cu', source, headers: {}, options: flags });
        expect(log).toBe('');
        const text = new TextDecoder('latin1').decode(image);
        expect(text).toContain(exact ? 'gaussian' : 'norm_fwd');
      }
    });
  }

  test('a fault in a source is a Failure with file and line', () => {
    const source = '#line 7 "cuda/norm.cu"\nextern "C" __global__ void f() { wrong(); }\n';
    const compile = () => nvrtc().compile({ name: 'kernels.cu', source, headers: {}, options: [] });
    expect(compile).toThrow(Failure);
    expect(compile).toThrow(/cuda\/norm\.cu\(7\): error: identifier "wrong" is undefined/);
  });
});
