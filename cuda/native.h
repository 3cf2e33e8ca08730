// The CPU side of the native library: what its .cpp files share, and the C interface that ffi/native.ts
// binds.
#pragma once
#include <stdint.h>

#ifdef REAL_IS_DOUBLE
typedef double act;
typedef double real;
#else
typedef float act;
typedef float real;
#endif

// ---- kernels -------------------------------------------------------------------------------------------

// As in block.h: `run` does blocks [first, last) of a command whose argument struct lies at `slots`.
struct alignas(32) md_entry {
  const char *name;
  void (*run)(const void *slots, long first, long last, char *scratch);
  long slots;
};

// One command of a plan: this header, then `slots` 8-byte slots.
struct md_command {
  uint32_t kernel, slots;
  uint64_t blocks, scratch_bytes;
};

extern const md_entry gemm_entry, yardstick_entry;
// Operations of all ranks together (collective.cpp), run as whole commands.
constexpr long collective_count = 4;
extern const md_entry collective_entries[collective_count];
inline bool is_collective(const md_entry *entry) {
  return entry >= collective_entries && entry < collective_entries + collective_count;
}
// Returns an md_status.
int collective_run(const md_entry *entry, const void *slots);
// Runs a whole command of kernel "gemm", whatever number of blocks it names; false when memory is short.
bool gemm_run(const void *slots);
// True after md_bf16(1).
bool gemm_in_bf16();
// Readies the BLAS library; called once, before its first use.
void blas_init();

// Finds kernels by index; 0 is gemm, 1 the yardstick, then collectives, then those of .cu files. Null when
// there is none.
const md_entry *kernel_at(long index);

// ---- pool ----------------------------------------------------------------------------------------------

// Starts threads - 1 workers; 0 or an errno value.
int pool_start(int threads);
int pool_threads();
// Gives every thread at least `bytes` of 64-byte aligned scratch; false when memory is short.
bool pool_scratch(uint64_t bytes);
// Runs blocks [0, blocks) on all threads and returns when all are done. Which thread runs a block is left to
// chance; what a block computes is not, so results do not depend on the number of threads. alone: the calling
// thread runs them all.
void pool_run(const md_entry *entry, const void *slots, long blocks, bool alone);

// Keeps what went wrong last for md_error.
void set_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

// ---- C interface ---------------------------------------------------------------------------------------

#define MD_API extern "C" __attribute__((visibility("default")))

enum md_status {
  MD_OK = 0,
  MD_NO_ISA = 1,       // the processor lacks what was asked for, at least x86-64-v3 (AVX2, FMA)
  MD_NO_THREADS = 2,   // a thread could not be started
  MD_BAD_COMMAND = 3,  // a packed command is malformed; nothing after it has run
  MD_NO_MEMORY = 4,
  MD_NOT_READY = 5,  // md_init has not succeeded
  MD_NOT_CONVERGED = 6,
  MD_LOST = 7,  // another rank of the group is gone; md_error names it
};

// threads = 0: as many as this process may run on. A second call with the same number changes nothing;
// another number is refused.
MD_API int md_init(int threads);
MD_API int md_threads();
// 3 or 4: which kernel objects run (x86-64-v3, x86-64-v4).
MD_API int md_isa();
// on = 1: from now on kernel "gemm" rounds its operands to bf16 and sums their products in float32. MD_NO_ISA
// where the processor has no such dot products.
MD_API int md_bf16(int on);
// Bytes of `act`: 4, or 8 in the test build.
MD_API int md_act_bytes();
// Writes a space-separated list of what the processor has; returns its length without the closing zero.
MD_API long md_cpu_features(char *out, long n);
// The name by which the BLAS library calls its kernels for this processor.
MD_API long md_blas_core(char *out, long n);
// What went wrong in the last call that failed.
MD_API long md_error(char *out, long n);

// Index of a kernel by name, -1 if there is none; its name and number of slots by index (0: no such kernel).
MD_API long md_kernel(const char *name);
MD_API long md_kernel_name(long index, char *out, long n);
MD_API long md_kernel_slots(long index);

// Runs packed commands one after the other, each finished before the next begins.
MD_API int md_replay(const void *commands, long bytes);
MD_API int md_replay_timed(const void *commands, long bytes, double *ns_per_command);

// Several processes of one machine as ranks. One of them makes the memory that they share, zeroed: a file
// descriptor, or -1. All open it by a path (/proc/PID/fd/N); a process joins once. Collective operations then
// wait for all ranks, and end with MD_LOST within a fraction of a second when one of them has ended.
MD_API int md_group_file(int ranks);
MD_API int md_group_join(const char *path, int rank, int ranks);

// Zeroed memory: 64-byte aligned, from 2 MiB on in 2 MiB pages where the system grants them; null if refused.
MD_API void *md_alloc(long bytes);
MD_API void md_free(void *memory, long bytes);
MD_API void md_copy(void *to, const void *from, long bytes);
MD_API void md_fill(void *to, int byte, long bytes);

// Statistics, in float64 and on the calling thread (lapack.cpp); matrices are row-major. After md_init.
// a [n, n]: its lower triangle. Eigenvalues [n], the smallest first; with vectors, row i of a becomes that of
// value i, else a is destroyed.
MD_API int md_symmetric_eigen(int vectors, long n, double *a, double *values);
// a [rows, columns], destroyed. Singular values [min(rows, columns)], the largest first.
MD_API int md_singular_values(long rows, long columns, double *a, double *values);
// c [m, n] = op(a) op(b), k deep.
MD_API void md_product_f64(int trans_a, int trans_b, long m, long n, long k, const double *a, const double *b,
                           double *c);
// The lower triangle of c [columns, columns] += x^T x, x [rows, columns].
MD_API void md_add_scatter_f64(long rows, long columns, const double *x, double *c);

// Reading of samples (gather.cpp). md_readers starts threads until there are so many. md_gather hands them a
// job, which must stay where it is until md_gather_wait says 1; that waits for at most so long.
enum md_gather_reason {
  MD_GATHERED = 0,
  MD_GATHER_OS = 1,       // the system refused to read: errno
  MD_GATHER_SHORT = 2,    // the file ends at this offset
  MD_GATHER_OFFSETS = 3,  // the sample would begin and end at these offsets
  MD_GATHER_SIZES = 4,    // its columns add up to these bytes, it has those
  MD_GATHER_COLUMN = 5,   // this wanted column has so many bytes
};
MD_API int md_readers(int threads);
MD_API int md_gather(void *job);
MD_API int md_gather_wait(void *job, int microseconds);
// Ends a mapping that a job made.
MD_API void md_unmap(void *map, long bytes);

// Opens a library and closes it again; writes the loader's own words when that fails (length 0: it opened).
MD_API long md_dlopen_reason(const char *path, char *out, long n);
// Opens a library and keeps it, so that others which ask for it by its soname find it. 0, or 1 if refused.
MD_API int md_dlopen_keep(const char *path);

// Calls ncclCommInitRank at `function`, which takes the 128 bytes at `id` by value; returns its status.
MD_API int md_nccl_init_rank(void *function, void **communicator, int ranks, const void *id, int rank);
