// Memory of the machine that is free.
import { readFileSync } from 'node:fs';

/**
 * Bytes that the system can give without swapping, within the limit of this process's container: the part of
 * each where so many processes like this one share the machine.
 */
export function availableBytes(processes = 1): number {
  const match = /^MemAvailable:\s+(\d+) kB$/m.exec(readFileSync('/proc/meminfo', 'utf8'));
  const limit = process.constrainedMemory();
  const own = limit > 0 ? limit - processes * process.memoryUsage.rss() : Number.POSITIVE_INFINITY;
  return Math.min(match ? 1024 * Number(match[1]) : Number.POSITIVE_INFINITY, own) / processes;
}
