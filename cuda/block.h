// The vocabulary in which every kernel is written once for several compilations:
//   g++                    act = real = float    the CPU product; a block is one lane and `omp simd` loops
//   g++ -DREAL_IS_DOUBLE   act = real = double   the same bodies for finite differences in tests
//   nvcc, NVRTC            act = bf16, real = float; a block is blockDim.x threads
//     -DACT_IS_FLOAT       act = real = float on the GPU as well
//   g++ -DMD_EMULATED      either form for the GPU, its threads run one after another in tests
// Parts: element types and load/store; block index, loops and sums; scratch; BODY and KERNEL.
//
// A kernel is a struct of 8-byte slots (pointers, then long, then double) with a BODY for one block:
//
//   struct add_row {
//     const act *x; act *y; long C; double by;
//     BODY(long row) {
//       EACH(c, C) store(y[row * C + c], load(x[row * C + c]) + real(by));
//     }
//   };
//   KERNEL(add_row)
//
// Rules: a body is right at every block size, 1 included; loops stride by EACH; block_sum and block_max are
// called by all threads of a block; after writing scratch or memory that other threads of the block read,
// call block_sync(). A .cu file includes only this header, math.h and headers of this folder: on the CPU the
// whole file is compiled inside an unnamed namespace (kernel_unit.h), once for x86-64-v3 and once for v4.
#pragma once

#ifdef __CUDACC_RTC__
// NVRTC has no headers; of the functions, CUDA's own mathematics and memcpy are built in.
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long int64_t;
typedef unsigned long uint64_t;
#define INFINITY __int_as_float(0x7f800000)
#else
#include <math.h>
#include <stdint.h>
#include <string.h>
#endif

#if defined(MD_EMULATED)
#define MD_CUDA 1
#define FN [[maybe_unused]] static inline __attribute__((always_inline))
#define MEMBER inline __attribute__((always_inline))
#include "emulator.h"
#elif defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define MD_CUDA 1
#define FN static __device__ __forceinline__
#define MEMBER __device__ __forceinline__
#else
#define MD_CUDA 0
#define FN [[maybe_unused]] static inline __attribute__((always_inline))
#define MEMBER inline __attribute__((always_inline))
#endif
#define MD_PRAGMA(...) _Pragma(#__VA_ARGS__)

// ---- element types -------------------------------------------------------------------------------------

typedef int32_t i32;

// bfloat16 in memory. Rounding to nearest even; the CPU form has no branch, so it vectorises.
struct bf16 {
  uint16_t bits;
};

FN uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}
FN float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
FN bf16 bf16_of(float value) {
#if MD_CUDA && !defined(MD_EMULATED)
  bf16 result;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
#else
  // A NaN keeps its upper half with the quiet bit set, else adding the rounding term could make it infinite.
  uint32_t bits = bits_of(value);
  uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  uint32_t quiet = (bits >> 16) | 0x40u;
  uint32_t nan = (bits & 0x7fffffffu) > 0x7f800000u ? 0xffffffffu : 0u;
  return bf16{uint16_t((rounded & ~nan) | (quiet & nan))};
#endif
}

#ifdef REAL_IS_DOUBLE
typedef double act;
typedef double real;
#elif MD_CUDA && !defined(ACT_IS_FLOAT)
typedef bf16 act;
typedef float real;
#else
typedef float act;
typedef float real;
#endif

FN real load(float value) { return real(value); }
FN real load(double value) { return real(value); }
FN real load(bf16 value) { return real(float_of(uint32_t(value.bits) << 16)); }
FN void store(float &to, real value) { to = float(value); }
FN void store(double &to, real value) { to = double(value); }
FN void store(bf16 &to, real value) { to = bf16_of(float(value)); }

// ---- block, loops, sums --------------------------------------------------------------------------------

#if MD_CUDA

#define TID ((long)threadIdx.x)
#define LANES ((long)blockDim.x)
#define EACH(i, n) for (long i = TID, i##_end = (n); i < i##_end; i += LANES)
#define EACH_SUM(i, n, ...) EACH(i, n)
#define EACH_MAX(i, n, ...) EACH(i, n)

// 16 bytes of numbers as four words, which nvcc loads and stores at once; 8 of bf16 it would take one by one.
struct alignas(16) pack {
  static constexpr int width = 16 / sizeof(act);
  uint32_t word[4];
  MEMBER real get(int i) const {
    if (width == 4) return float_of(word[i]);
    return float_of(i % 2 ? word[i / 2] & 0xffff0000u : word[i / 2] << 16);
  }
  MEMBER void put(int i, real value) {
    if (width == 4) {
      word[i] = bits_of(value);
    } else {
      const uint32_t bits = bf16_of(value).bits;
      word[i / 2] = i % 2 ? word[i / 2] | bits << 16 : bits;
    }
  }
};

// map(y, n, f, a, b, ..): y[i] = f(a[i], b[i], ..) for i < n, 16 bytes of each array at a time where all of
// them lie at multiples of 16 bytes. y may be one of the others.
template <class F, class... X> FN void map(act *y, long n, F f, const X *...x) {
  const long packs = (((uint64_t)y | ... | (uint64_t)x) & 15) == 0 ? n / pack::width : 0;
  const auto apply = [&](pack &to, const auto... from) {
#pragma unroll
    for (int j = 0; j < pack::width; ++j) to.put(j, f(from.get(j)...));
  };
  EACH(p, packs) {
    pack out;
    apply(out, ((const pack *)x)[p]...);
    ((pack *)y)[p] = out;
  }
  for (long i = packs * pack::width + TID; i < n; i += LANES) store(y[i], f(load(x[i])...));
}

FN void block_sync() { __syncthreads(); }

// Combines one value a thread, any block size; the order is fixed, so repeats are equal to the bit.
template <class Op> FN real block_fold(real value, Op op) {
  __shared__ real partial[32];
  long lanes = LANES;
  if (lanes == 1) return value;
  long warp = TID >> 5, lane = TID & 31, warps = (lanes + 31) >> 5;
  long width = lanes - warp * 32 < 32 ? lanes - warp * 32 : 32;
  unsigned mask = width == 32 ? 0xffffffffu : (1u << width) - 1u;
  for (int step = 16; step > 0; step >>= 1) {
    const bool inside = lane + step < width;
    const real other = __shfl_sync(mask, value, int(inside ? lane + step : lane));
    if (inside) value = op(value, other);
  }
  __syncthreads();
  if (lane == 0) partial[warp] = value;
  __syncthreads();
  real all = partial[0];
  for (long w = 1; w < warps; ++w) all = op(all, partial[w]);
  return all;
}
struct fold_sum {
  MEMBER real operator()(real a, real b) const { return a + b; }
};
struct fold_max {
  MEMBER real operator()(real a, real b) const { return a < b ? b : a; }
};
FN real block_sum(real value) { return block_fold(value, fold_sum()); }
FN real block_max(real value) { return block_fold(value, fold_max()); }

#else

#define TID 0L
#define LANES 1L
// EACH asserts that iterations are independent; EACH_SUM and EACH_MAX name the local sums they change:
//   real s = 0; EACH_SUM(c, C, s) s += load(x[c]); s = block_sum(s);
#define EACH(i, n) MD_PRAGMA(omp simd) for (long i = 0; i < (n); ++i)
#define EACH_SUM(i, n, ...) MD_PRAGMA(omp simd reduction(+ : __VA_ARGS__)) for (long i = 0; i < (n); ++i)
#define EACH_MAX(i, n, ...) MD_PRAGMA(omp simd reduction(max : __VA_ARGS__)) for (long i = 0; i < (n); ++i)

template <class F, class... X> FN void map(act *y, long n, F f, const X *...x) {
  EACH(i, n) store(y[i], f(load(x[i])...));
}

FN void block_sync() {}
FN real block_sum(real value) { return value; }
FN real block_max(real value) { return value; }

#endif

// ---- BODY, scratch and KERNEL --------------------------------------------------------------------------

// scratch(T): the block's scratch memory as T*, 64-byte aligned, `scratch_bytes` of the command long; its
// content is undefined when a block begins.
#if defined(MD_EMULATED)

#define BODY(index) MEMBER void body(index) const
#define scratch(T) ((T *)sim_scratch)
#define KERNEL_OF(name, threads, blocks)                                                                   \
  static void name##_run(const void *slots) {                                                              \
    if (threads > 0 && blockDim.x != threads) sim_fail(SIM_TRAP, "block of %u threads", blockDim.x);       \
    struct name arguments;                                                                                 \
    memcpy((void *)&arguments, slots, sizeof arguments);                                                   \
    arguments.body((long)blockIdx.x);                                                                      \
  }                                                                                                        \
  __attribute__((used, retain, section("sim_kernels"))) static const sim_kernel name##_entry = {           \
      #name, name##_run, unsigned(sizeof(struct name))};
#define KERNEL(name) KERNEL_OF(name, 0, 0)

#elif MD_CUDA

#define BODY(index) __device__ __forceinline__ void body(index) const
extern __shared__ __align__(128) char md_scratch[];
#define scratch(T) ((T *)md_scratch)
#define KERNEL(name)                                                                                       \
  extern "C" __global__ void name(const struct name arguments) { arguments.body((long)blockIdx.x); }
// A kernel of the GPU alone: its blocks have this many threads, and as many `blocks` fit into the registers
// of a multiprocessor.
#define KERNEL_OF(name, threads, blocks)                                                                   \
  extern "C" __global__ void __launch_bounds__(threads, blocks) name(const struct name arguments) {        \
    arguments.body((long)blockIdx.x);                                                                      \
  }

#else

// As large as its alignment, so that entries of one section lie without gaps.
struct alignas(32) md_entry {
  const char *name;
  void (*run)(const void *slots, long first, long last, char *scratch);
  long slots;
};

#define BODY(index) MEMBER void body(index, [[maybe_unused]] char *md_scratch) const
#define scratch(T) ((T *)md_scratch)
#ifdef MD_ISA_V4
#define MD_TABLE "md_kernels_v4"
#else
#define MD_TABLE "md_kernels_v3"
#endif
// The slots are copied to a local struct, so the compiler knows that stores through pointers leave them
// alone.
#define KERNEL(name)                                                                                       \
  static void name##_run(const void *slots, long first, long last, char *scratch_bytes) {                  \
    struct name arguments;                                                                                 \
    memcpy((void *)&arguments, slots, sizeof arguments);                                                   \
    for (long block = first; block < last; ++block) arguments.body(block, scratch_bytes);                  \
  }                                                                                                        \
  static_assert(sizeof(struct name) % 8 == 0, "a kernel's fields are 8-byte slots");                       \
  __attribute__((used, retain, section(MD_TABLE))) static const md_entry name##_entry = {                  \
      #name, name##_run, long(sizeof(struct name) / 8)};

#endif
