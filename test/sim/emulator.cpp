// The scheduler of emulated kernels: fibers with a stack switch of a few instructions, barriers, meetings of
// warps, shared memory, faults. See emulator.h.
#ifndef MD_EMULATED
#define MD_EMULATED 1
#endif
#include "emulator.h"

#include <link.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

sim_dim threadIdx, blockIdx, blockDim, gridDim;
char *sim_scratch;

extern "C" SIM_INNER const sim_kernel __start_sim_kernels[], __stop_sim_kernels[];
const sim_kernel *sim_kernels_begin() { return __start_sim_kernels; }
const sim_kernel *sim_kernels_end() { return __stop_sim_kernels; }

// sim_switch(&own, other): saves the callee's registers on the own stack, goes on with the other stack.
extern "C" SIM_INNER void sim_switch(void **own, void *other);
asm(R"(
  .text
  .type sim_switch, @function
sim_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
  .size sim_switch, . - sim_switch
)");

namespace {

constexpr unsigned max_threads = 1024, max_copies = 64;
constexpr size_t page = 4096, stack_bytes = 16 * page, max_shared = 227 << 10;

enum state { READY, AT_BARRIER, IN_WARP, DONE };

struct copy {
  void *to;
  const void *from;  // null: zeros
  unsigned bytes;
};

struct fiber {
  void *stack_pointer;
  char *stack;  // null before the first run and after the end
  sim_dim index;
  state at;
  unsigned mask;
  sim_operation operation;
  void *part;
  unsigned copies;  // under way
  copy queue[max_copies];
};

struct launch {
  const sim_kernel *kernel;
  const void *arguments;
  unsigned threads;
  sim_order order;
  uint32_t random;
} now;

fiber *fibers;
fiber *self;
void *host_pointer;
char *stacks[max_threads];
unsigned free_stacks;
unsigned turn[max_threads];

sigjmp_buf escape;
volatile sig_atomic_t inside;
const void *volatile fault_address;
sim_result result;
char reason[256];

char *shared_end;  // a guard page begins here
char *static_shared;
size_t static_bytes;
thread_local char first_shared;  // so that this library has thread-local memory in any case

[[noreturn]] void out_of_memory() {
  fputs("emulator: mmap failed\n", stderr);
  abort();
}

char *pages(size_t bytes) {
  void *at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) out_of_memory();
  return (char *)at;
}

uint32_t next_random() {
  now.random ^= now.random << 13;
  now.random ^= now.random >> 17;
  return now.random ^= now.random << 5;
}

// Which of n things comes at place i, for the two orders that need no table.
unsigned placed(unsigned i, unsigned n) { return now.order == SIM_REVERSE ? n - 1 - i : i; }

void shuffle(unsigned *list, unsigned n) {
  for (unsigned i = n; i > 1; --i) {
    const unsigned j = next_random() % i, other = list[j];
    list[j] = list[i - 1];
    list[i - 1] = other;
  }
}

// ---- threads ---------------------------------------------------------------------------------------------

void to_host() { sim_switch(&self->stack_pointer, host_pointer); }

void fiber_main() {
  now.kernel->body(now.arguments);
  self->at = DONE;
  stacks[free_stacks++] = self->stack;
  self->stack = nullptr;
  to_host();
}

void give_stack(fiber &f) {
  if (free_stacks == 0) {
    char *low = pages(page + stack_bytes);
    mprotect(low, page, PROT_NONE);
    stacks[free_stacks++] = low;
  }
  f.stack = stacks[--free_stacks];
  void **top = (void **)(f.stack + page + stack_bytes);
  *--top = nullptr;  // where a return address would be: keeps the stack aligned as after a call
  *--top = (void *)fiber_main;
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  f.stack_pointer = top;
}

void resume(fiber &f) {
  self = &f;
  threadIdx = f.index;
  if (!f.stack) give_stack(f);
  sim_switch(&host_pointer, f.stack_pointer);
}

unsigned count(state at) {
  unsigned sum = 0;
  for (unsigned i = 0; i < now.threads; ++i) sum += fibers[i].at == at;
  return sum;
}

void describe_block(const char *what) {
  snprintf(reason, sizeof reason, "%s: block (%u, %u, %u) of %s has %u threads at a barrier, %u in a warp "
           "operation, %u at the end", what, blockIdx.x, blockIdx.y, blockIdx.z, now.kernel->name,
           count(AT_BARRIER), count(IN_WARP), count(DONE));
}

void poison_shared(unsigned shared_bytes) {
  memset(static_shared, 0xff, static_bytes);
  sim_scratch = shared_end - (shared_bytes + 127) / 128 * 128;
  memset(sim_scratch, 0xff, size_t(shared_end - sim_scratch));
}

void run_block(unsigned shared_bytes) {
  poison_shared(shared_bytes);
  for (unsigned i = 0; i < now.threads; ++i) {
    fiber &f = fibers[i];
    f.at = READY;
    f.stack = nullptr;
    f.copies = 0;
    turn[i] = placed(i, now.threads);
  }
  for (;;) {
    if (now.order == SIM_RANDOM) shuffle(turn, now.threads);
    bool moved = false;
    for (unsigned i = 0; i < now.threads; ++i) {
      fiber &f = fibers[turn[i]];
      if (f.at != READY) continue;
      moved = true;
      resume(f);
      if (result != SIM_DONE) return;
    }
    if (moved) continue;
    const unsigned waiting = count(AT_BARRIER);
    if (waiting == now.threads) {
      for (unsigned i = 0; i < now.threads; ++i) fibers[i].at = READY;
    } else if (count(DONE) == now.threads) {
      break;
    } else {
      result = SIM_DIVERGED;
      return describe_block("threads wait for others");
    }
  }
  for (const char *at = sim_scratch + shared_bytes; at < shared_end; ++at) {
    if (*at == char(0xff)) continue;
    result = SIM_FAULT;
    fault_address = at;
    return describe_block("a write just past dynamic shared memory");
  }
}

// ---- set-up and faults -----------------------------------------------------------------------------------

int find_static_shared(dl_phdr_info *info, size_t, void *) {
  bool own = false;
  size_t bytes = 0;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const ElfW(Phdr) &part = info->dlpi_phdr[i];
    const uintptr_t first = info->dlpi_addr + part.p_vaddr, here = (uintptr_t)&find_static_shared;
    if (part.p_type == PT_LOAD && here >= first && here - first < part.p_memsz) own = true;
    if (part.p_type == PT_TLS) bytes = part.p_memsz;
  }
  if (!own) return 0;
  static_shared = (char *)info->dlpi_tls_data;
  static_bytes = bytes;
  return 1;
}

void prepare() {
  // Thread-local memory is made when it is first touched; a plain store would be optimised away.
  *(volatile char *)&first_shared = 0;
  dl_iterate_phdr(find_static_shared, nullptr);
  if (fibers) return;
  fibers = (fiber *)pages(max_threads * sizeof(fiber));
  const size_t bytes = (max_shared + page - 1) / page * page;
  char *low = pages(bytes + 2 * page);
  mprotect(low, page, PROT_NONE);
  mprotect(low + page + bytes, page, PROT_NONE);
  shared_end = low + page + bytes;
}

void on_fault(int signal, siginfo_t *info, void *) {
  if (!inside) abort();
  const bool memory = signal == SIGSEGV || signal == SIGBUS;
  result = memory ? SIM_FAULT : SIM_TRAP;
  fault_address = memory ? info->si_addr : nullptr;
  snprintf(reason, sizeof reason, "%s at %p in thread (%u, %u, %u) of block (%u, %u, %u) of %s",
           memory ? "memory fault" : "trap", info->si_addr, threadIdx.x, threadIdx.y, threadIdx.z, blockIdx.x,
           blockIdx.y, blockIdx.z, now.kernel->name);
  siglongjmp(escape, 1);
}

constexpr int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};

// Fault handlers for the time of a launch, on a stack of their own, as a fiber's may be what overflowed.
struct handlers {
  struct sigaction before[4];
  stack_t stack_before;
  handlers() {
    static char stack[32 << 10];
    stack_t own = {};
    own.ss_sp = stack;
    own.ss_size = sizeof stack;
    sigaltstack(&own, &stack_before);
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (int i = 0; i < 4; ++i) sigaction(signals[i], &action, &before[i]);
  }
  void restore() {
    for (int i = 0; i < 4; ++i) sigaction(signals[i], &before[i], nullptr);
    sigaltstack(&stack_before, nullptr);
  }
};

void run_grid(sim_dim grid, unsigned shared_bytes) {
  const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
  unsigned *list = nullptr;
  if (now.order == SIM_RANDOM) {
    list = (unsigned *)malloc(blocks * sizeof *list);
    for (unsigned i = 0; i < blocks; ++i) list[i] = i;
    shuffle(list, (unsigned)blocks);
  }
  for (uint64_t i = 0; i < blocks && result == SIM_DONE; ++i) {
    const unsigned b = list ? list[i] : placed((unsigned)i, (unsigned)blocks);
    blockIdx = {b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y};
    run_block(shared_bytes);
  }
  free(list);
}

int refuse(const char *what) {
  snprintf(reason, sizeof reason, "launch of %s: %s", now.kernel->name, what);
  return SIM_TRAP;
}

}  // namespace

int sim_run(const sim_kernel *kernel, sim_dim grid, sim_dim block, unsigned shared_bytes,
            const void *arguments, enum sim_order order, unsigned seed, const void **fault) {
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  now = {kernel, arguments, (unsigned)threads, order, seed * 2654435761u + 1u};
  if (now.random == 0) now.random = 1;
  result = SIM_DONE;
  reason[0] = 0;
  fault_address = nullptr;
  prepare();
  if (fault) *fault = nullptr;
  if (threads == 0 || threads > max_threads) return refuse("a block has 1 to 1024 threads");
  if (uint64_t(grid.x) * grid.y * grid.z == 0) return refuse("the grid is empty");
  if (grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535) return refuse("the grid is too large");
  if (shared_bytes > max_shared) return refuse("more shared memory than 227 KiB");
  gridDim = grid;
  blockDim = block;
  for (unsigned i = 0; i < threads; ++i)
    fibers[i].index = {i % block.x, i / block.x % block.y, i / block.x / block.y};
  handlers faults;
  inside = 1;
  if (sigsetjmp(escape, 1) == 0) run_grid(grid, shared_bytes);
  inside = 0;
  faults.restore();
  if (result != SIM_DONE) {
    // Fibers that did not end leave their stacks behind.
    for (unsigned i = 0; i < threads; ++i)
      if (fibers[i].stack) stacks[free_stacks++] = fibers[i].stack, fibers[i].stack = nullptr;
  }
  if (fault) *fault = fault_address;
  return result;
}

const char *sim_reason() { return reason; }

// ---- what kernels call -----------------------------------------------------------------------------------

void sim_fail(sim_result failed, const char *format, ...) {
  va_list list;
  va_start(list, format);
  const int used = snprintf(reason, sizeof reason, "thread (%u, %u, %u) of block (%u, %u, %u) of %s: ",
                            threadIdx.x, threadIdx.y, threadIdx.z, blockIdx.x, blockIdx.y, blockIdx.z,
                            now.kernel->name);
  if (used > 0 && used < (int)sizeof reason)
    vsnprintf(reason + used, sizeof reason - (size_t)used, format, list);
  va_end(list);
  result = failed;
  to_host();
  abort();  // nobody resumes it
}

void __syncthreads() {
  self->at = AT_BARRIER;
  to_host();
}

unsigned sim_lane() { return unsigned(self - fibers) & 31; }

void sim_meet(unsigned mask, sim_operation operation, void *part) {
  const unsigned own = unsigned(self - fibers), base = own & ~31u;
  if (!(mask >> (own & 31) & 1)) sim_fail(SIM_DIVERGED, "lane %u is not in its mask %08x", own & 31, mask);
  self->mask = mask;
  self->operation = operation;
  self->part = part;
  self->at = IN_WARP;
  // Most arrivals end here: as lanes go up or down, the last one to arrive is one end of the mask.
  const unsigned ends[] = {31 - unsigned(__builtin_clz(mask)), unsigned(__builtin_ctz(mask))};
  for (unsigned end : ends) {
    const state at = base + end < now.threads ? fibers[base + end].at : DONE;
    if (at == READY || at == AT_BARRIER) return to_host();
  }
  void *parts[32];
  for (unsigned i = 0; i < 32; ++i) {
    parts[i] = nullptr;
    if (!(mask >> i & 1)) continue;
    if (base + i >= now.threads || fibers[base + i].at == DONE)
      sim_fail(SIM_DIVERGED, "lane %u of mask %08x is not there", i, mask);
    const fiber &other = fibers[base + i];
    if (other.at != IN_WARP || other.mask != mask || other.operation != operation) return to_host();
    parts[i] = other.part;
  }
  operation(mask, parts);
  for (unsigned i = 0; i < 32; ++i)
    if (mask >> i & 1) fibers[base + i].at = READY;
}

void __syncwarp(unsigned mask) {
  sim_meet(mask, [](unsigned, void *const *) {}, nullptr);
}

// ---- copies --------------------------------------------------------------------------------------------

bool sim_in_shared(const void *at, size_t bytes) {
  const char *from = (const char *)at;
  return (from >= sim_scratch && from + bytes <= shared_end) ||
         (from >= static_shared && from + bytes <= static_shared + static_bytes);
}

static void carry_out(const copy &c) {
  if (c.from) memcpy(c.to, c.from, c.bytes);
  else memset(c.to, 0, c.bytes);
}

// Late in the forward order, at once in the reverse order, either in the random order: a copy may arrive at
// any time before the wait.
void sim_copy_later(void *shared, const void *global, unsigned bytes, bool there) {
  sim_aligned(shared, bytes);
  sim_aligned(global, bytes);
  if (!sim_in_shared(shared, bytes)) sim_fail(SIM_TRAP, "cp.async to outside shared memory");
  const copy wanted = {shared, there ? global : nullptr, bytes};
  if (now.order == SIM_REVERSE || (now.order == SIM_RANDOM && next_random() % 2)) return carry_out(wanted);
  if (self->copies == max_copies) sim_fail(SIM_TRAP, "more than %u copies under way", max_copies);
  self->queue[self->copies++] = wanted;
}

void sim_copy_wait() {
  for (unsigned i = 0; i < self->copies; ++i) carry_out(self->queue[i]);
  self->copies = 0;
}
