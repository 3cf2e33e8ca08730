// Gathers samples out of shard files into batch buffers, on threads of its own: a plan's pool must not wait
// for a disk. A job is a list of samples, each with its file; threads claim a few at a time, check all that a
// damaged file could say wrong and put the bytes straight to where the batch wants them.
//
// Bytes come from read calls, or from a mapping of the whole file if there is one: then they are stored past
// the caches, which on a batch larger than these is twice as fast (bench/SPEED.md). A mapping's faults would
// end the program where a read call says what is wrong; so a file is read whole into memory before its
// mapping is used, and its size is asked for before every sample.
//
// A shard (MDS, little endian): u32 n; u32 offsets[n + 1] from the start of the file; a text; the samples.
// A sample: a u32 length for every column of variable length, then the bytes of all columns in order.
//
// A packed column holds numbers in 8 bits (src/io/q8.ts); into the batch they go as halves.
#include "native.h"

#include <atomic>
#include <errno.h>
#include <fcntl.h>
#include <immintrin.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

// Newer glibc moved these functions and gave them a new version; the old one is there on every system.
__asm__(".symver pthread_create, pthread_create@GLIBC_2.2.5");
__asm__(".symver pthread_sigmask, pthread_sigmask@GLIBC_2.2.5");

namespace {

constexpr int max_threads = 64, max_jobs = 64, max_columns = 256;
// Samples up to this size are read whole and copied: one call costs more than the bytes that nobody wants.
constexpr size_t small_bytes = 16384;
// MADV_POPULATE_READ (Linux 5.14): reads a mapping in, and fails where touching it would be fatal.
constexpr int populate_read = 22;

// Numbers are doubles: whole ones below 2^53 are what both sides can write.
struct Request {
  double file, file_bytes, samples, sample;  // sample -1: the whole file will be wanted soon; -2: nothing
  double layout;                             // address of a Layout
  double map;  // address of the file's mapping, or 0; of sample -1: 1 asks for one, and it is put here
};

struct Layout {
  int32_t columns, variable;
  struct {
    int32_t bytes;   // -1: its length stands in the sample
    int32_t wanted;  // which of the job's columns it is, or -1
    int32_t packed;  // 1: numbers in 8 bits that the job wants as halves
  } column[];
};

struct Wanted {
  double to, bytes;
};

struct Job {
  double requests, count, wanted, claim;  // addresses of Request[count] and of Wanted[]
  double failed, reason, first, second;   // the first request that failed (-1: none), and why
  double next, done;                      // both under `mutex`
  std::atomic<uint32_t> finished;
};

pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
Job *jobs[max_jobs];  // in the order of their coming, first at 0
int waiting = 0, threads = 0;
std::atomic<uint32_t> bell{0};

long futex(std::atomic<uint32_t> *address, int operation, uint32_t value, const timespec *time) {
  uint32_t *plain = reinterpret_cast<uint32_t *>(address);
  return syscall(SYS_futex, plain, operation | FUTEX_PRIVATE_FLAG, value, time, nullptr, 0);
}

template <class T> T *at(double address) { return reinterpret_cast<T *>(uintptr_t(address)); }

struct Fault {
  int reason;
  double first, second;
};

constexpr Fault fine{MD_GATHERED, 0, 0};

// Reads `bytes` at `offset` into `parts`, one after the other.
Fault read_parts(int file, iovec *parts, int count, size_t bytes, uint64_t offset) {
  while (bytes > 0) {
    ssize_t got = preadv(file, parts, count, off_t(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return {MD_GATHER_OS, double(errno), 0};
    if (got == 0) return {MD_GATHER_SHORT, double(lseek(file, 0, SEEK_END)), 0};
    bytes -= size_t(got);
    offset += uint64_t(got);
    while (count > 0 && size_t(got) >= parts->iov_len) {
      got -= ssize_t(parts->iov_len);
      ++parts;
      --count;
    }
    if (count > 0) {
      parts->iov_base = static_cast<char *>(parts->iov_base) + got;
      parts->iov_len -= size_t(got);
    }
  }
  return fine;
}

Fault read_bytes(int file, void *to, size_t bytes, uint64_t offset) {
  iovec part{to, bytes};
  return read_parts(file, &part, 1, bytes, offset);
}

// Whether a few bytes all over the file are in memory: then the rest is taken to be there too, as asking for
// it page by page costs a tenth of reading it.
bool in_memory(int file, uint64_t bytes) {
  constexpr int probes = 16;
  for (int i = 0; i < probes; ++i) {
    char byte;
    iovec part{&byte, 1};
    if (preadv2(file, &part, 1, off_t(bytes / probes * uint64_t(i)), RWF_NOWAIT) != 1) return false;
  }
  return true;
}

// Has a file in memory, and mapped if that is asked for. What this cannot do is left to the read calls, which
// say why.
void ready(Request &request) {
  int file = int(request.file);
  size_t bytes = size_t(request.file_bytes);
  if (!in_memory(file, bytes)) posix_fadvise(file, 0, 0, POSIX_FADV_WILLNEED);
  if (request.map == 0) return;
  request.map = 0;
  void *map = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file, 0);
  if (map == MAP_FAILED) return;
  if (madvise(map, bytes, populate_read) == 0)
    request.map = double(reinterpret_cast<uintptr_t>(map));
  else
    munmap(map, bytes);
}

// Copies past the caches.
void stream_bytes(char *to, const char *from, size_t bytes) {
  size_t head = size_t(-reinterpret_cast<uintptr_t>(to)) & 15;
  if (head > bytes) head = bytes;
  memcpy(to, from, head);
  size_t at = head;
  for (; at + 64 <= bytes; at += 64) {
    const __m128i *source = reinterpret_cast<const __m128i *>(from + at);
    __m128i *target = reinterpret_cast<__m128i *>(to + at);
    __m128i a = _mm_loadu_si128(source), b = _mm_loadu_si128(source + 1);
    __m128i c = _mm_loadu_si128(source + 2), d = _mm_loadu_si128(source + 3);
    _mm_stream_si128(target, a);
    _mm_stream_si128(target + 1, b);
    _mm_stream_si128(target + 2, c);
    _mm_stream_si128(target + 3, d);
  }
  memcpy(to + at, from + at, bytes - at);
}

constexpr size_t block_numbers = 32, block_bytes = 34;

// Bytes of the numbers that are `bytes` as halves.
double packed_bytes(double bytes) {
  uint64_t numbers = uint64_t(bytes) / 2;
  return double(numbers + 2 * ((numbers + block_numbers - 1) / block_numbers));
}

// Numbers of one block or less, d q, as halves. A product of a half and 8 bits is exact in float32, so it is
// rounded once.
__attribute__((target("avx2,f16c"))) void unpack_block(uint16_t *to, const char *from, size_t count) {
  uint16_t bits, halves[block_numbers];
  int8_t q[block_numbers] = {};
  memcpy(&bits, from, 2);
  memcpy(q, from + 2, count);
  const __m256 d = _mm256_set1_ps(_cvtsh_ss(bits));
  for (size_t i = 0; i < block_numbers; i += 8) {
    const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(q + i));
    const __m256 y = _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight)));
    _mm_storeu_si128(reinterpret_cast<__m128i *>(halves + i), _mm256_cvtps_ph(y, _MM_FROUND_TO_NEAREST_INT));
  }
  memcpy(to, halves, 2 * count);
}

// `bytes` of packed numbers, whole blocks but for the last; returns where the next number goes.
uint16_t *unpack(uint16_t *to, const char *from, size_t bytes) {
  while (bytes > 0) {
    size_t part = bytes < block_bytes ? bytes : block_bytes;
    unpack_block(to, from, part - 2);
    to += part - 2;
    from += part;
    bytes -= part;
  }
  return to;
}

// The same out of a file, by way of `scratch`.
Fault read_packed(int file, uint16_t *to, size_t bytes, uint64_t offset, char *scratch) {
  constexpr size_t most = small_bytes / block_bytes * block_bytes;
  while (bytes > 0) {
    size_t part = bytes < most ? bytes : most;
    Fault fault = read_bytes(file, scratch, part, offset);
    if (fault.reason) return fault;
    to = unpack(to, scratch, part);
    offset += part;
    bytes -= part;
  }
  return fine;
}

Fault gather_one(const Request &request, const Wanted *wanted, long row, char *scratch) {
  int file = int(request.file);
  uint64_t file_bytes = uint64_t(request.file_bytes), sample = uint64_t(request.sample);
  const char *map = at<const char>(request.map);
  Fault fault = fine;
  uint32_t edge[2];
  if (map) {
    off_t size = lseek(file, 0, SEEK_END);
    if (size < 0 || uint64_t(size) < file_bytes) return {MD_GATHER_SHORT, double(size), 0};
    memcpy(edge, map + 4 + 4 * sample, 8);
  } else {
    fault = read_bytes(file, edge, 8, 4 + 4 * sample);
    if (fault.reason) return fault;
  }
  uint64_t begin = edge[0], end = edge[1];
  const Layout *layout = at<Layout>(request.layout);
  uint64_t head = 4 * uint64_t(layout->variable);
  if (begin < 4 * (uint64_t(request.samples) + 2) || end < begin + head || end > file_bytes)
    return {MD_GATHER_OFFSETS, double(begin), double(end)};
  size_t length = size_t(end - begin);
  bool whole = map || length <= small_bytes;
  const char *data = map ? map + begin : scratch;
  if (!map) {
    fault = read_bytes(file, scratch, whole ? length : head, begin);
    if (fault.reason) return fault;
  }
  // All is checked before anything is read into the batch.
  uint64_t sizes[max_columns], sum = head;
  for (int i = 0, variable = 0; i < layout->columns; ++i) {
    uint32_t bytes = uint32_t(layout->column[i].bytes);
    if (layout->column[i].bytes < 0) memcpy(&bytes, data + 4 * variable++, 4);
    int index = layout->column[i].wanted;
    if (index >= 0) {
      double whole_bytes = wanted[index].bytes;
      if (double(bytes) != (layout->column[i].packed ? packed_bytes(whole_bytes) : whole_bytes))
        return {MD_GATHER_COLUMN, double(index), double(bytes)};
    }
    sizes[i] = bytes;
    sum += bytes;
  }
  if (sum != length) return {MD_GATHER_SIZES, double(sum), double(length)};
  iovec parts[max_columns];
  uint64_t offset = head;
  for (int i = 0; i < layout->columns;) {
    int index = layout->column[i].wanted;
    if (index >= 0 && layout->column[i].packed) {
      uint16_t *to = at<uint16_t>(wanted[index].to + double(row) * wanted[index].bytes);
      if (whole)
        unpack(to, data + offset, size_t(sizes[i]));
      else
        fault = read_packed(file, to, size_t(sizes[i]), begin + offset, scratch);
      if (fault.reason) return fault;
      offset += sizes[i++];
      continue;
    }
    // Neighbours that are wanted are read in one call.
    int count = 0;
    uint64_t bytes = 0;
    for (; i < layout->columns && layout->column[i].wanted >= 0 && !layout->column[i].packed; ++i) {
      char *to = at<char>(wanted[layout->column[i].wanted].to) + uint64_t(row) * sizes[i];
      if (map)
        stream_bytes(to, data + offset + bytes, size_t(sizes[i]));
      else if (whole)
        memcpy(to, data + offset + bytes, size_t(sizes[i]));
      else if (sizes[i] > 0)
        parts[count++] = {to, size_t(sizes[i])};
      bytes += sizes[i];
    }
    if (count > 0) {
      fault = read_parts(file, parts, count, size_t(bytes), begin + offset);
      if (fault.reason) return fault;
    }
    offset += bytes;
    if (i < layout->columns && layout->column[i].wanted < 0) offset += sizes[i++];
  }
  return fine;
}

// Takes requests of the oldest job; false when there is none.
bool claim(Job **job, long *first, long *last) {
  pthread_mutex_lock(&mutex);
  bool found = waiting > 0;
  if (found) {
    *job = jobs[0];
    *first = long(jobs[0]->next);
    *last = *first + long(jobs[0]->claim);
    if (*last >= long(jobs[0]->count)) {
      *last = long(jobs[0]->count);
      --waiting;
      memmove(jobs, jobs + 1, size_t(waiting) * sizeof jobs[0]);
    }
    (*job)->next = double(*last);
  }
  pthread_mutex_unlock(&mutex);
  return found;
}

void *reader(void *) {
  char scratch[small_bytes];
  for (;;) {
    uint32_t ring = bell.load(std::memory_order_seq_cst);
    Job *job;
    long first, last;
    if (!claim(&job, &first, &last)) {
      futex(&bell, FUTEX_WAIT, ring, nullptr);
      continue;
    }
    long failed = -1;
    Fault fault = fine;
    for (long i = first; i < last && failed < 0; ++i) {
      Request &request = at<Request>(job->requests)[i];
      if (request.sample == -2) continue;
      if (request.sample < 0)
        ready(request);
      else
        fault = gather_one(request, at<Wanted>(job->wanted), i, scratch);
      if (fault.reason) failed = i;
    }
    _mm_sfence();
    pthread_mutex_lock(&mutex);
    if (failed >= 0 && (job->failed < 0 || double(failed) < job->failed)) {
      job->failed = double(failed);
      job->reason = fault.reason;
      job->first = fault.first;
      job->second = fault.second;
    }
    job->done += double(last - first);
    std::atomic<uint32_t> *finished = job->done == job->count ? &job->finished : nullptr;
    if (finished) finished->store(1, std::memory_order_seq_cst);
    pthread_mutex_unlock(&mutex);
    // The job may be gone by now; waking an address does not touch what is there.
    if (finished) futex(finished, FUTEX_WAKE, 1, nullptr);
  }
  return nullptr;
}

}  // namespace

int md_readers(int count) {
  if (count > max_threads) count = max_threads;
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int failed = 0;
  while (threads < count && !failed) {
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    failed = pthread_create(&thread, &attributes, reader, nullptr);
    pthread_attr_destroy(&attributes);
    if (!failed) ++threads;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (!failed) return MD_OK;
  set_error("a reader thread could not be started: %s", strerror(failed));
  return MD_NO_THREADS;
}

int md_gather(void *memory) {
  Job *job = static_cast<Job *>(memory);
  if (threads == 0 || job->count < 1) return MD_NOT_READY;
  pthread_mutex_lock(&mutex);
  bool room = waiting < max_jobs;
  if (room) jobs[waiting++] = job;
  pthread_mutex_unlock(&mutex);
  if (!room) {
    set_error("more than %d batches are being read at once", max_jobs);
    return MD_NO_MEMORY;
  }
  bell.fetch_add(1, std::memory_order_seq_cst);
  futex(&bell, FUTEX_WAKE, threads, nullptr);
  return MD_OK;
}

void md_unmap(void *map, long bytes) { munmap(map, size_t(bytes)); }

int md_gather_wait(void *memory, int microseconds) {
  Job *job = static_cast<Job *>(memory);
  timespec time{microseconds / 1000000, microseconds % 1000000 * 1000L};
  if (!job->finished.load(std::memory_order_seq_cst) && microseconds > 0)
    futex(&job->finished, FUTEX_WAIT, 0, &time);
  if (!job->finished.load(std::memory_order_seq_cst)) return 0;
  // The thread that set it still held the lock then; once it is free, nobody touches the job any more.
  pthread_mutex_lock(&mutex);
  pthread_mutex_unlock(&mutex);
  return 1;
}
