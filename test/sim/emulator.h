// Runs kernels of cuda/*.cu in their GPU form under g++, thread by thread: what a driver needs to launch
// them, then (with MD_EMULATED) the words of CUDA that kernels use. Compile units with -DMD_EMULATED and this
// folder on the include path (block.h includes this file); link emulator*.cpp once into each library.
//
// Threads of a block are fibers of one host thread. A thread runs until it waits, so a kernel without
// barriers runs each thread once, from its beginning to its end. Found: barriers and warp operations that
// some threads do not reach, accesses that fault, writes past dynamic shared memory, asynchronous copies that
// nobody waited for, misaligned vectors. A missing barrier shows when results differ between orders. Not
// seen: races that need true concurrency, bank conflicts, timing, the last bits of approximate instructions.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define SIM_API extern "C" __attribute__((visibility("default")))

struct sim_dim {
  unsigned x, y, z;
};

// The order in which blocks run and waiting threads are resumed.
enum sim_order { SIM_FORWARD, SIM_REVERSE, SIM_RANDOM };

enum sim_result {
  SIM_DONE = 0,
  SIM_DIVERGED = 1,  // a barrier or warp operation that some of its threads do not reach
  SIM_FAULT = 2,     // SIGSEGV or SIGBUS; the address in *fault
  SIM_TRAP = 3,      // __trap, misaligned vectors, a launch that no GPU accepts
};

// Registered by KERNEL. As large as its alignment, so that entries of one section lie without gaps.
struct alignas(32) sim_kernel {
  const char *name;
  void (*body)(const void *arguments);
  unsigned bytes;  // of arguments
};

// All kernels of this library.
SIM_API const sim_kernel *sim_kernels_begin();
SIM_API const sim_kernel *sim_kernels_end();

// Runs one launch to its end, on the calling thread; returns a sim_result. Shared memory is NaN at the
// beginning of each block. Not reentrant.
SIM_API int sim_run(const sim_kernel *kernel, sim_dim grid, sim_dim block, unsigned shared_bytes,
                    const void *arguments, enum sim_order order, unsigned seed, const void **fault);

// What went wrong in the last sim_run, one line; empty after SIM_DONE.
SIM_API const char *sim_reason();

#ifdef MD_EMULATED

#define SIM_INNER __attribute__((visibility("hidden")))

extern SIM_INNER sim_dim threadIdx, blockIdx, blockDim, gridDim;
extern SIM_INNER char *sim_scratch;  // dynamic shared memory of the running block

// The host's thread-local memory of this library is the static shared memory of the running block.
#define __shared__ static thread_local

// Ends the launch. Callable from kernels only.
[[noreturn]] SIM_INNER void sim_fail(sim_result result, const char *format, ...);
[[noreturn]] static inline void __trap() { sim_fail(SIM_TRAP, "__trap"); }

// A barrier of all threads of the block.
SIM_INNER void __syncthreads();

// Lanes of a warp meet: the last one of `mask` to arrive calls operation(mask, parts) for all, where parts[i]
// is what lane i passed, null outside the mask. Only equal operations with equal masks meet.
typedef void (*sim_operation)(unsigned mask, void *const *parts);
SIM_INNER void sim_meet(unsigned mask, sim_operation operation, void *part);
SIM_INNER unsigned sim_lane();

SIM_INNER void __syncwarp(unsigned mask = 0xffffffffu);
SIM_INNER unsigned __ballot_sync(unsigned mask, int predicate);
static inline int __any_sync(unsigned mask, int p) { return __ballot_sync(mask, p) != 0; }
static inline int __all_sync(unsigned mask, int p) { return __ballot_sync(mask, p) == mask; }

// `value` as it is in lane `source`, which has to be in the mask.
SIM_INNER uint64_t sim_shuffle(unsigned mask, uint64_t value, unsigned source);

template <class T> T sim_value_of(unsigned mask, T value, unsigned source) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffled values have 4 or 8 bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = sim_shuffle(mask, bits, source);
  memcpy(&value, &bits, sizeof value);
  return value;
}
// Lanes are counted within segments of `width`; a source outside the own segment is the own lane.
template <class T> T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
  const unsigned base = sim_lane() & ~unsigned(width - 1);
  return sim_value_of(mask, value, base + (unsigned(from) & unsigned(width - 1)));
}
template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
  const unsigned lane = sim_lane(), end = (lane & ~unsigned(width - 1)) + unsigned(width);
  return sim_value_of(mask, value, lane + by < end ? lane + by : lane);
}
template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
  const unsigned lane = sim_lane(), base = lane & ~unsigned(width - 1);
  return sim_value_of(mask, value, lane >= base + by ? lane - by : lane);
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int by, int width = 32) {
  const unsigned lane = sim_lane(), end = (lane & ~unsigned(width - 1)) + unsigned(width);
  return sim_value_of(mask, value, (lane ^ unsigned(by)) < end ? lane ^ unsigned(by) : lane);
}

// Whether the bytes lie in the running block's shared memory, static or dynamic.
SIM_INNER bool sim_in_shared(const void *at, size_t bytes);

// ldmatrix.sync.aligned.m8n8.x4(.trans).shared.b16: lane i names row i % 8 of matrix i / 8.
SIM_INNER void sim_ldmatrix(uint32_t to[4], const void *row, bool transposed);
// mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32: d += a b, fragments as in the PTX manual.
SIM_INNER void sim_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]);
// cp.async of 4 or 16 bytes, or as many zeros; arrives at once or as late as in sim_copy_wait, which is
// cp.async.wait_all.
SIM_INNER void sim_copy_later(void *shared, const void *global, unsigned bytes, bool there);
SIM_INNER void sim_copy_wait();

// Traps unless `address` is a multiple of `bytes`, as vector accesses of a GPU do.
static inline void sim_aligned(const void *address, unsigned bytes) {
  if ((uintptr_t)address % bytes) sim_fail(SIM_TRAP, "%p is no multiple of %u", address, bytes);
}

static inline float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

#endif
