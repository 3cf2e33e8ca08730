// Every op on this machine's GPU against the CPU: the cases of test/cpu, at block sizes from 32 to 1024 in
// both modes. MICRODIFF_TEST_REPORT names a file for the largest errors.
import { afterAll, describe } from 'bun:test';
import { writeFileSync } from 'node:fs';
import { cpuBackend } from '../../src/backend/cpu.ts';
import { runElsewhere } from '../cpu/op-case.ts';
import { checkOnDevices, Largest, openDevices } from './device-case.ts';

const cpu = await cpuBackend();
const devices = await openDevices();
const largest = new Largest();
runElsewhere({
  check: (c) => checkOnDevices(c, cpu, devices, largest),
  // Draws have equal bits on all: what the CPU's tests compare between its libraries, these do with the GPU.
  backends: { f32: cpu, f64: devices[0]!.backend },
});

describe('activations', async () => await import('../cpu/ops-act.test.ts'));
describe('attention', async () => await import('../cpu/ops-attention.test.ts'));
describe('EDM', async () => await import('../cpu/ops-edm.test.ts'));
describe('experts', async () => await import('../cpu/ops-moe.test.ts'));
describe('norms and products', async () => await import('../cpu/ops-norm.test.ts'));
describe('convolutions', async () => await import('../cpu/ops-conv.test.ts'));
describe('windows', async () => await import('../cpu/ops-window.test.ts'));
describe('draws', async () => await import('../cpu/ops-random.test.ts'));
describe('rows', async () => await import('../cpu/ops-rows.test.ts'));

afterAll(() => {
  const report = process.env.MICRODIFF_TEST_REPORT;
  if (report) writeFileSync(report, `${JSON.stringify([...largest.seen.values()])}\n`);
  for (const { backend } of devices) backend.close();
});
