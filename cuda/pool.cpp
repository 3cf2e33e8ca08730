// The thread pool: fork-join over the blocks of one command.
//
// A job is published in one 64-bit word: its generation above, the next unclaimed chunk below. A thread
// claims a chunk by compare-and-swap on that word, so a thread that wakes late finds either chunks of the
// current job or none, and the join waits for chunks, not for threads: a worker that the system has put
// aside delays nobody. Workers spin for a short while between jobs (commands follow each other within
// microseconds), then sleep on a futex. Signals stay with the threads of the host program; no affinity is
// set.
#include "native.h"

#include <atomic>
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

// Newer glibc moved these functions and gave them a new version; the old one is there on every system.
__asm__(".symver pthread_create, pthread_create@GLIBC_2.2.5");
__asm__(".symver pthread_sigmask, pthread_sigmask@GLIBC_2.2.5");

namespace {

constexpr int max_threads = 256;
constexpr long spin_ns = 60000;
// Few enough that claiming costs nothing, enough that a slow thread does not leave the others idle.
constexpr long chunks_per_thread = 16;
// Commands that the calling thread does in this time by itself are not shared: on a busy machine, a worker
// that claims a chunk and is then put aside holds up the join for milliseconds (bench/SPEED.md).
constexpr long alone_ns = 60000;

constexpr uint32_t closed = 0xffffffffu;  // a chunk number beyond every job's: nothing to claim

struct Job {
  std::atomic<const md_entry *> entry;
  std::atomic<const void *> slots;
  std::atomic<long> begin, blocks, chunk;  // blocks [begin, blocks)
};

Job job;
alignas(64) std::atomic<uint64_t> word{0};          // generation << 32 | next chunk
alignas(64) std::atomic<uint32_t> finished{0};      // chunks of this generation that are done
alignas(64) std::atomic<uint32_t> bell{0};         // workers sleep on it
std::atomic<uint32_t> sleepers{0};
alignas(64) std::atomic<uint32_t> joiner_sleeps{0};  // the joining thread sleeps on `finished`

int threads = 0;
char *scratch[max_threads];
uint64_t scratch_bytes = 0;

long futex(std::atomic<uint32_t> *address, int operation, uint32_t value) {
  uint32_t *plain = reinterpret_cast<uint32_t *>(address);
  return syscall(SYS_futex, plain, operation | FUTEX_PRIVATE_FLAG, value, nullptr, nullptr, 0);
}

long now_ns() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000000000L + time.tv_nsec;
}

// Spins until ready() or the time is up; true if ready.
template <class Ready> bool spin(Ready ready) {
  long end = 0;
  for (;;) {
    for (int i = 0; i < 64; ++i) {
      if (ready()) return true;
      __builtin_ia32_pause();
    }
    long now = now_ns();
    if (end == 0) end = now + spin_ns;
    if (now > end) return false;
  }
}

uint32_t generation(uint64_t at) { return uint32_t(at >> 32); }

// Claims and runs chunks of the job of this generation until none is left.
void work(int thread, uint32_t now) {
  for (;;) {
    uint64_t at = word.load(std::memory_order_acquire);
    if (generation(at) != now) return;
    const md_entry *entry = job.entry.load(std::memory_order_acquire);
    const void *slots = job.slots.load(std::memory_order_acquire);
    long begin = job.begin.load(std::memory_order_acquire);
    long blocks = job.blocks.load(std::memory_order_acquire);
    long chunk = job.chunk.load(std::memory_order_acquire);
    long chunks = (blocks - begin + chunk - 1) / chunk;
    long mine = long(uint32_t(at));
    if (mine >= chunks) return;
    // Success proves that what was read above belongs to this generation: it cannot end before this chunk
    // does, and pool_run closes the word before it writes the next job.
    if (!word.compare_exchange_weak(at, at + 1, std::memory_order_acq_rel)) continue;
    long first = begin + mine * chunk, last = first + chunk < blocks ? first + chunk : blocks;
    entry->run(slots, first, last, scratch[thread]);
    if (long(finished.fetch_add(1, std::memory_order_seq_cst)) + 1 == chunks &&
        joiner_sleeps.load(std::memory_order_seq_cst))
      futex(&finished, FUTEX_WAKE, 1);
  }
}

void *worker(void *argument) {
  int thread = int(reinterpret_cast<intptr_t>(argument));
  uint32_t seen = 0;
  auto changed = [&] { return generation(word.load(std::memory_order_acquire)) != seen; };
  for (;;) {
    if (!spin(changed)) {
      uint32_t ring = bell.load(std::memory_order_seq_cst);
      sleepers.fetch_add(1, std::memory_order_seq_cst);
      if (!changed()) futex(&bell, FUTEX_WAIT, ring);
      sleepers.fetch_sub(1, std::memory_order_seq_cst);
      continue;
    }
    seen = generation(word.load(std::memory_order_acquire));
    work(thread, seen);
  }
  return nullptr;
}

}  // namespace

int pool_start(int count) {
  if (count < 1 || count > max_threads) return EINVAL;
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int failed = 0;
  for (int i = 1; i < count && !failed; ++i) {
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    failed = pthread_create(&thread, &attributes, worker, reinterpret_cast<void *>(intptr_t(i)));
    pthread_attr_destroy(&attributes);
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (failed) return failed;
  threads = count;
  return 0;
}

int pool_threads() { return threads; }

bool pool_scratch(uint64_t bytes) {
  if (bytes <= scratch_bytes) return true;
  uint64_t wanted = (bytes + 4095) & ~uint64_t(4095);
  scratch_bytes = 0;
  for (int i = 0; i < threads; ++i) {
    free(scratch[i]);
    scratch[i] = nullptr;
  }
  for (int i = 0; i < threads; ++i) {
    void *memory = nullptr;
    if (posix_memalign(&memory, 4096, wanted)) return false;
    scratch[i] = static_cast<char *>(memory);
  }
  scratch_bytes = wanted;
  return true;
}

void pool_run(const md_entry *entry, const void *slots, long blocks, bool alone) {
  if (blocks <= 0) return;
  if (alone || threads == 1 || blocks == 1) return entry->run(slots, 0, blocks, scratch[0]);
  long chunk = blocks / (threads * chunks_per_thread), begin = 0;
  if (chunk >= 1) {
    // Enough blocks that the first few of them can tell how long all will take.
    begin = chunk / 4 + 1;
    long start = now_ns();
    entry->run(slots, 0, begin, scratch[0]);
    if (double(now_ns() - start) * double(blocks) < double(alone_ns) * double(begin))
      return entry->run(slots, begin, blocks, scratch[0]);
  } else {
    chunk = 1;
  }
  long chunks = (blocks - begin + chunk - 1) / chunk;
  uint32_t next = generation(word.load(std::memory_order_relaxed)) + 1;
  word.store(uint64_t(next - 1) << 32 | closed, std::memory_order_seq_cst);
  finished.store(0, std::memory_order_release);
  job.entry.store(entry, std::memory_order_release);
  job.slots.store(slots, std::memory_order_release);
  job.begin.store(begin, std::memory_order_release);
  job.blocks.store(blocks, std::memory_order_release);
  job.chunk.store(chunk, std::memory_order_release);
  word.store(uint64_t(next) << 32, std::memory_order_seq_cst);
  if (sleepers.load(std::memory_order_seq_cst)) {
    bell.fetch_add(1, std::memory_order_seq_cst);
    futex(&bell, FUTEX_WAKE, INT_MAX);
  }
  work(0, next);
  auto done = [&] { return long(finished.load(std::memory_order_acquire)) == chunks; };
  while (!spin(done)) {
    joiner_sleeps.store(1, std::memory_order_seq_cst);
    uint32_t count = finished.load(std::memory_order_seq_cst);
    if (long(count) != chunks) futex(&finished, FUTEX_WAIT, count);
    joiner_sleeps.store(0, std::memory_order_seq_cst);
  }
}
