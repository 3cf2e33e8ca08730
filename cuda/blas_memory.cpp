// Work memory for OpenBLAS, in place of its own: the serial build hands the same buffer to two threads that
// ask at the same moment (0.3.21: about one wrong product in 3000 at 13 rows), because it takes no lock.
// OpenBLAS serves the yardstick of the benches and the double build (blas.cpp). The linker sends its calls
// here (--wrap in build.mk). Each buffer is address space first and memory where it is touched.
#include <atomic>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

namespace {

// At least OpenBLAS's BUFFER_SIZE for x86-64, from which it derives how much it packs at a time.
constexpr size_t buffer_bytes = (size_t(32) << 22) + (size_t(4) << 20);
// More than threads, as OpenBLAS holds one a call.
constexpr int buffers = 512;

struct Buffer {
  std::atomic<bool> taken;
  void *memory;
};

Buffer pool[buffers];

}  // namespace

extern "C" void *__wrap_blas_memory_alloc(int) {
  for (Buffer &buffer : pool) {
    if (buffer.taken.exchange(true, std::memory_order_acquire)) continue;
    if (!buffer.memory) {
      void *memory = mmap(nullptr, buffer_bytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (memory == MAP_FAILED) break;
      madvise(memory, buffer_bytes, MADV_HUGEPAGE);
      buffer.memory = memory;
    }
    return buffer.memory;
  }
  // OpenBLAS has no way to report this; its own code ends the program here as well.
  fputs("no memory for matrix products\n", stderr);
  abort();
}

extern "C" void __wrap_blas_memory_free(void *memory) {
  for (Buffer &buffer : pool)
    if (buffer.memory == memory) return buffer.taken.store(false, std::memory_order_release);
}
