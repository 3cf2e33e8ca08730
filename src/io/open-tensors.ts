// Opens a file of tensors of either format, told by its bytes and not by its name.

import { Failure } from './failure.ts';
import { Safetensors } from './safetensors.ts';
import { Source } from './source.ts';
import type { TensorFile } from './tensor-file.ts';
import { TorchFile, type TorchOptions } from './torch.ts';
import { isTorch } from './torch_container.ts';

/** Opens .safetensors files and those of torch.save; anything else is a Failure. */
export function openTensors(path: string, options: TorchOptions = {}): TensorFile {
  const source = Source.open(path);
  const start = new Uint8Array(Math.min(source.size, 64));
  try {
    source.fill(start, 0);
    refuseStandIn(path, start);
    // The header's length may look like the beginning of a pickle, but a brace follows it.
    const braced = start[8] === 0x7b;
    if (!braced && isTorch(start)) return new TorchFile(source, options);
    if (braced || path.toLowerCase().endsWith('.safetensors')) return new Safetensors(source);
  } catch (error) {
    source.close();
    throw error;
  }
  source.close();
  const why = source.size === 0 ? 'the file is empty' : 'neither a safetensors file nor one of torch.save';
  throw new Failure({ what: path, why, fix: 'Copy or download it again, or name another file' });
}

/** Failure for what stands in a file's place after a download that went wrong: a pointer or a web page. */
function refuseStandIn(path: string, start: Uint8Array): void {
  const text = new TextDecoder('latin1').decode(start);
  if (text.startsWith('version https://git-lfs')) {
    const why = 'this is a pointer of Git LFS, not the file that it stands for';
    throw new Failure({ what: path, why, fix: 'Run `git lfs pull` there, or download the file itself' });
  }
  if (/^\s*<(!doctype|html)/i.test(text)) {
    throw new Failure({ what: path, why: 'this is a web page, not weights', fix: 'Download it again' });
  }
}

/** Whether a file's name or first bytes say that it holds tensors. */
export function seemsTensors(path: string): boolean {
  if (/\.(safetensors|pt|pth|bin|ckpt)$/i.test(path)) return true;
  using source = Source.open(path);
  const start = new Uint8Array(Math.min(source.size, 9));
  source.fill(start, 0);
  return isTorch(start) || (start[8] === 0x7b && start[7] === 0);
}
