// The C interface of the native library (native.h): start, kernel table, memory, the loader's words.
#include "native.h"

#include <atomic>
#include <cpuid.h>
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

// glibc 2.34 moved these functions and gave them a new version; the old ones are there on every system.
__asm__(".symver dlopen, dlopen@GLIBC_2.2.5");
__asm__(".symver dlclose, dlclose@GLIBC_2.2.5");
__asm__(".symver dlerror, dlerror@GLIBC_2.2.5");

// The linker gathers the entries that KERNEL places in these two sections.
extern "C" {
extern const md_entry __start_md_kernels_v3[], __stop_md_kernels_v3[];
#ifdef MD_WITH_V4
extern const md_entry __start_md_kernels_v4[], __stop_md_kernels_v4[];
#endif
char *openblas_get_corename();
}

namespace {

int isa = 0;
bool in_bf16 = false;
char error[512];

long copy_text(const char *text, char *out, long n) {
  long length = long(strlen(text));
  if (n > 0) {
    long kept = length < n - 1 ? length : n - 1;
    memcpy(out, text, size_t(kept));
    out[kept] = 0;
  }
  return length;
}

const md_entry *table(long *count) {
#ifdef MD_WITH_V4
  if (isa == 4) {
    *count = __stop_md_kernels_v4 - __start_md_kernels_v4;
    return __start_md_kernels_v4;
  }
#endif
  *count = __stop_md_kernels_v3 - __start_md_kernels_v3;
  return __start_md_kernels_v3;
}

bool has_v3() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
         __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("f16c") && __builtin_cpu_supports("lzcnt");
}

bool has_v4() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}

bool has_bf16() {
  unsigned a, b, c, d;
  return has_v4() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 5));
}

int allowed_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set)) return 1;
  int count = CPU_COUNT(&set);
  return count < 1 ? 1 : count;
}

constexpr long page = 4096, huge_page = 2 << 20;

long rounded(long bytes) {
  long unit = bytes >= huge_page ? huge_page : page;
  return (bytes + unit - 1) / unit * unit;
}

}  // namespace

void set_error(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(error, sizeof error, format, arguments);
  va_end(arguments);
}

const md_entry *kernel_at(long index) {
  if (index == 0) return &gemm_entry;
  if (index == 1) return &yardstick_entry;
  const long own = 2 + collective_count;
  if (index > 1 && index < own) return collective_entries + index - 2;
  long count;
  const md_entry *first = table(&count);
  return index >= own && index < count + own ? first + index - own : nullptr;
}

int md_init(int threads) {
  __builtin_cpu_init();
  if (!has_v3()) {
    set_error("this processor lacks AVX2, FMA or BMI (x86-64-v3)");
    return MD_NO_ISA;
  }
  int wanted = threads > 0 ? threads : allowed_processors();
  if (pool_threads()) {
    if (pool_threads() == wanted) return MD_OK;
    set_error("the pool runs with %d threads and cannot change to %d", pool_threads(), wanted);
    return MD_NO_THREADS;
  }
#ifdef MD_WITH_V4
  const char *forced = getenv("MICRODIFF_ISA");
  isa = has_v4() && !(forced && !strcmp(forced, "3")) ? 4 : 3;
#else
  isa = 3;
#endif
  blas_init();
  int failed = pool_start(wanted);
  if (failed) {
    set_error("%d threads could not be started: %s", wanted, strerror(failed));
    return MD_NO_THREADS;
  }
  return MD_OK;
}

int md_threads() { return pool_threads(); }
int md_isa() { return isa; }

bool gemm_in_bf16() { return in_bf16; }

int md_bf16(int on) {
#ifdef MD_WITH_V4
  in_bf16 = on && isa == 4 && has_bf16();
#endif
  if (!on || in_bf16) return MD_OK;
  set_error(isa == 4 ? "this processor has no bf16 dot products (AVX-512 BF16)"
                     : "bf16 dot products need the kernels for x86-64-v4 (AVX-512), which do not run here");
  return MD_NO_ISA;
}

int md_act_bytes() { return int(sizeof(act)); }

long md_cpu_features(char *out, long n) {
  __builtin_cpu_init();
  char text[512] = "";
  auto name = [&](const char *word, bool has) {
    if (!has) return;
    if (text[0]) strncat(text, " ", sizeof text - strlen(text) - 1);
    strncat(text, word, sizeof text - strlen(text) - 1);
  };
  unsigned a, b, c, d;
  bool amx = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & (1u << 22));
  name("x86-64-v3", has_v3());
  name("x86-64-v4", has_v4());
  name("avx2", __builtin_cpu_supports("avx2"));
  name("fma", __builtin_cpu_supports("fma"));
  name("avx512f", __builtin_cpu_supports("avx512f"));
  name("avx512vnni", __builtin_cpu_supports("avx512vnni"));
  name("avx512bf16", has_bf16());
  name("amx-bf16", amx);
  return copy_text(text, out, n);
}

long md_blas_core(char *out, long n) { return copy_text(openblas_get_corename(), out, n); }

long md_error(char *out, long n) { return copy_text(error, out, n); }

long md_kernel(const char *name) {
  for (long i = 0; const md_entry *entry = kernel_at(i); ++i)
    if (!strcmp(entry->name, name)) return i;
  return -1;
}

long md_kernel_name(long index, char *out, long n) {
  const md_entry *entry = kernel_at(index);
  return copy_text(entry ? entry->name : "", out, n);
}

long md_kernel_slots(long index) {
  const md_entry *entry = kernel_at(index);
  return entry ? entry->slots : 0;
}

void *md_alloc(long bytes) {
  if (bytes <= 0) return nullptr;
  long size = rounded(bytes);
  if (size < huge_page) {
    void *memory = mmap(nullptr, size_t(size), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? nullptr : memory;
  }
  // One huge page more than needed, then what lies outside the aligned part goes back.
  void *memory = mmap(nullptr, size_t(size + huge_page), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  uintptr_t start = reinterpret_cast<uintptr_t>(memory);
  uintptr_t aligned = (start + uintptr_t(huge_page) - 1) & ~(uintptr_t(huge_page) - 1);
  if (aligned > start) munmap(memory, aligned - start);
  uintptr_t tail = start + uintptr_t(size + huge_page) - (aligned + uintptr_t(size));
  if (tail) munmap(reinterpret_cast<void *>(aligned + uintptr_t(size)), tail);
  madvise(reinterpret_cast<void *>(aligned), size_t(size), MADV_HUGEPAGE);
  return reinterpret_cast<void *>(aligned);
}

void md_free(void *memory, long bytes) {
  if (memory && bytes > 0) munmap(memory, size_t(rounded(bytes)));
}

void md_copy(void *to, const void *from, long bytes) { memmove(to, from, size_t(bytes)); }
void md_fill(void *to, int byte, long bytes) { memset(to, byte, size_t(bytes)); }

int md_dlopen_keep(const char *path) { return dlopen(path, RTLD_NOW | RTLD_LOCAL) ? 0 : 1; }

long md_dlopen_reason(const char *path, char *out, long n) {
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library) {
    dlclose(library);
    return copy_text("", out, n);
  }
  const char *reason = dlerror();
  return copy_text(reason ? reason : "the loader gave no reason", out, n);
}
