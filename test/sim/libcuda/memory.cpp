// Device and pinned host memory of the stand-in driver, copies and fills.
//
// Every allocation lies between guard pages, filled with 0xFF (as floats: NaN), its end as near to the guard
// as the 256-byte alignment allows; the bytes around it are canaries. Freed addresses are never used again.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "state.h"

namespace {

const size_t PAGE = 4096, GUARD = 1 << 20, ALIGNMENT = 256, SPAN = size_t(1) << 40;
const unsigned char CANARY = 0xA5;

struct Allocation {
  int context;
  bool host, registered;
  char *pages;
  size_t page_bytes, bytes;
  uint64_t number;
};

char *arena, *arena_next;
std::map<uint64_t, Allocation> live;          // by first byte
std::map<uint64_t, size_t> freed;             // for messages
size_t used, peak;
uint64_t allocations;
int openings;

uint64_t total_memory() { return strtoull(setting("SIM_MEMORY", "2147483648").c_str(), nullptr, 10); }
size_t rounded(size_t bytes, size_t step) { return (bytes + step - 1) / step * step; }

bool reserve() {
  if (arena) return true;
  void *span = mmap(nullptr, SPAN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (span == MAP_FAILED) return false;
  arena = arena_next = (char *)span;
  return true;
}

CUresult allocate(size_t bytes, bool host, uint64_t *out) {
  if (!out || bytes == 0) return INVALID_VALUE;
  if (!reserve()) return OUT_OF_MEMORY;
  size_t charged = rounded(bytes, 512), page_bytes = rounded(rounded(bytes, ALIGNMENT), PAGE);
  if (!host && used + charged > total_memory()) return OUT_OF_MEMORY;
  size_t taken = page_bytes + GUARD;
  if (taken < bytes || arena_next + taken > arena + SPAN) return OUT_OF_MEMORY;
  char *pages = arena_next + GUARD;
  if (mprotect(pages, page_bytes, PROT_READ | PROT_WRITE)) return OUT_OF_MEMORY;
  arena_next += rounded(taken, PAGE);
  char *first = pages + page_bytes - rounded(bytes, ALIGNMENT);
  memset(pages, CANARY, page_bytes);
  memset(first, 0xFF, bytes);
  live[(uint64_t)first] =
      Allocation{current_context_id(), host, false, pages, page_bytes, bytes, ++allocations};
  if (!host) {
    used += charged;
    if (used > peak) peak = used;
    if (!openings) mprotect(pages, page_bytes, PROT_NONE);
  }
  *out = (uint64_t)first;
  return SUCCESS;
}

bool canary_whole(uint64_t address, const Allocation &one) {
  const char *first = (const char *)address;
  for (const char *p = one.pages; p < first; ++p)
    if ((unsigned char)*p != CANARY) return false;
  for (const char *p = first + one.bytes; p < one.pages + one.page_bytes; ++p)
    if ((unsigned char)*p != CANARY) return false;
  return true;
}

void release(std::map<uint64_t, Allocation>::iterator it) {
  Allocation &one = it->second;
  if (!one.registered) {
    mprotect(one.pages, one.page_bytes, PROT_NONE);
    madvise(one.pages, one.page_bytes, MADV_DONTNEED);
    freed[it->first] = one.bytes;
  }
  if (!one.host) used -= rounded(one.bytes, 512);
  live.erase(it);
}

std::map<uint64_t, Allocation>::iterator holding(uint64_t address) {
  auto it = live.upper_bound(address);
  if (it == live.begin()) return live.end();
  --it;
  return address < it->first + it->second.bytes ? it : live.end();
}

bool device_range(CUdeviceptr address, size_t bytes, const char *what) {
  std::string why;
  if (live_range(address, bytes, &why)) return true;
  complain(INVALID_VALUE, "%s of %zu bytes: %s", what, bytes, why.c_str());
  return false;
}

// Copies; the ranges are checked when it is queued and again when it runs.
CUresult copy_now(const char *what, CUdeviceptr to, CUdeviceptr from, size_t bytes, int to_device,
                  int from_device) {
  std::string why;
  if ((to_device && !live_range(to, bytes, &why)) || (from_device && !live_range(from, bytes, &why)))
    return complain(ILLEGAL_ADDRESS, "%s of %zu bytes: %s", what, bytes, why.c_str());
  if (from_device && to_device) memmove((void *)to, (const void *)from, bytes);
  else if (from_device) memcpy((void *)to, (const void *)from, bytes);
  else if (!copy_from_host((void *)to, (const void *)from, bytes))
    return complain(ILLEGAL_ADDRESS, "%s: the host memory at %p is gone", what, (void *)from);
  return SUCCESS;
}

CUresult copy(const char *what, CUdeviceptr to, CUdeviceptr from, size_t bytes, int to_device,
              int from_device, Handle stream, bool wait) {
  auto on = stream_of(stream);
  if (!on) return complain(INVALID_HANDLE, "%s: not a stream of this context", what);
  if (bytes == 0) return SUCCESS;
  if (!to || !from) return INVALID_VALUE;
  if (to_device && !device_range(to, bytes, what)) return INVALID_VALUE;
  if (from_device && !device_range(from, bytes, what)) return INVALID_VALUE;
  if ((!to_device && is_device(to)) || (!from_device && is_device(from)))
    return complain(INVALID_VALUE, "%s: a device address where a host address belongs", what);
  if (on->capture) {
    for (auto [address, device] : {std::pair{to, to_device}, std::pair{from, from_device}})
      if (!device && holding(address) == live.end()) {
        on->capture->invalid = true;
        return complain(CAPTURE_UNSUPPORTED, "%s: pageable host memory inside a capture", what);
      }
  }
  std::string name = what;
  Work work{name, [=] { return copy_now(name.c_str(), to, from, bytes, to_device, from_device); }};
  if (!from_device) work.host_read = (const void *)from;
  if (!to_device && !wait) work.host_write = (void *)to;
  work.host_bytes = bytes;
  CUresult status = submit(on, work);
  if (status || !wait) return status;
  return finish(on->tail);
}

CUresult fill(const char *what, CUdeviceptr to, uint32_t value, size_t width, size_t count, Handle stream) {
  auto on = stream_of(stream);
  if (!on) return complain(INVALID_HANDLE, "%s: not a stream of this context", what);
  if (to % width) return complain(INVALID_VALUE, "%s: address not a multiple of %zu", what, width);
  if (count == 0) return SUCCESS;
  if (!device_range(to, width * count, what)) return INVALID_VALUE;
  std::string name = what;
  return submit(on, Work{name, [=]() -> CUresult {
    std::string why;
    if (!live_range(to, width * count, &why))
      return complain(ILLEGAL_ADDRESS, "%s: %s", name.c_str(), why.c_str());
    if (width == 1) memset((void *)to, (int)value, count);
    else for (size_t i = 0; i < count; ++i) memcpy((char *)to + i * width, &value, width);
    return SUCCESS;
  }});
}

}  // namespace

DeviceAccess::DeviceAccess() {
  if (openings++) return;
  for (auto &[first, one] : live)
    if (!one.host) mprotect(one.pages, one.page_bytes, PROT_READ | PROT_WRITE);
}
DeviceAccess::~DeviceAccess() {
  if (--openings) return;
  for (auto &[first, one] : live)
    if (!one.host) mprotect(one.pages, one.page_bytes, PROT_NONE);
}

bool is_device(uint64_t address) {
  if (!arena || address < (uint64_t)arena || address >= (uint64_t)arena + SPAN) return false;
  auto it = holding(address);
  return it == live.end() || !it->second.host;
}

bool live_range(CUdeviceptr address, size_t bytes, std::string *why) {
  char text[200];
  auto it = live.upper_bound(address);
  if (it != live.begin()) {
    --it;
    const Allocation &one = it->second;
    size_t offset = address - it->first;
    if (offset < one.bytes) {
      if (bytes <= one.bytes - offset) return true;
      snprintf(text, sizeof text, "%zu bytes at byte %zu leave allocation %lu of %zu bytes", bytes, offset,
               (unsigned long)one.number, one.bytes);
      *why = text;
      return false;
    }
  }
  auto gone = freed.upper_bound(address);
  bool was = gone != freed.begin() && address < std::prev(gone)->first + std::prev(gone)->second;
  snprintf(text, sizeof text, was ? "0x%lx is freed memory" : "0x%lx is not device memory",
           (unsigned long)address);
  *why = text;
  return false;
}

bool copy_from_host(void *to, const void *from, size_t bytes) {
  iovec into{to, bytes}, out{(void *)from, bytes};
  ssize_t got = process_vm_readv(getpid(), &into, 1, &out, 1, 0);
  if (got == (ssize_t)bytes) return true;
  if (got >= 0 || errno == EFAULT) return false;
  memcpy(to, from, bytes);  // the call is not allowed here
  return true;
}

std::string broken_canary() {
  for (auto &[first, one] : live)
    if (!one.registered && !canary_whole(first, one)) {
      memset(one.pages, CANARY, first - (uint64_t)one.pages);
      char *end = (char *)first + one.bytes;
      memset(end, CANARY, one.pages + one.page_bytes - end);
      return "allocation " + std::to_string(one.number) + " of " + std::to_string(one.bytes) + " bytes";
    }
  return "";
}

void poison_host(void *address, size_t bytes) {
  auto it = holding((uint64_t)address);
  if (it != live.end() && (uint64_t)address + bytes <= it->first + it->second.bytes)
    memset(address, 0xFF, bytes);
}

size_t peak_memory() { return peak; }

void free_context_memory(int context) {
  for (auto it = live.begin(); it != live.end();) {
    auto next = std::next(it);
    if (it->second.context == context) release(it);
    it = next;
  }
}

// ---- entry points ----------------------------------------------------------------------------------------

EXPORT CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
  ENTER(CONTEXT);
  if (!free_bytes || !total) return INVALID_VALUE;
  *total = total_memory();
  *free_bytes = *total - used;
  return SUCCESS;
}

EXPORT CUresult cuMemAlloc_v2(CUdeviceptr *out, size_t bytes) {
  ENTER(CONTEXT, UNSAFE);
  return allocate(bytes, false, out);
}

EXPORT CUresult cuMemFree_v2(CUdeviceptr address) {
  ENTER(CONTEXT, UNSAFE);
  if (!address) return SUCCESS;
  auto it = live.find(address);
  if (it == live.end() || it->second.host)
    return complain(INVALID_VALUE, "cuMemFree: 0x%lx is not the beginning of live device memory",
                    (unsigned long)address);
  release(it);
  return SUCCESS;
}

EXPORT CUresult cuMemHostAlloc(void **out, size_t bytes, unsigned flags) {
  ENTER(CONTEXT, UNSAFE);
  if (flags & ~7u) return INVALID_VALUE;
  return allocate(bytes, true, (uint64_t *)out);
}

EXPORT CUresult cuMemAllocHost_v2(void **out, size_t bytes) {
  ENTER(CONTEXT, UNSAFE);
  return allocate(bytes, true, (uint64_t *)out);
}

EXPORT CUresult cuMemFreeHost(void *address) {
  ENTER(CONTEXT, UNSAFE);
  auto it = live.find((uint64_t)address);
  if (it == live.end() || !it->second.host || it->second.registered)
    return complain(INVALID_VALUE, "cuMemFreeHost: %p is not the beginning of pinned memory", address);
  release(it);
  return SUCCESS;
}

EXPORT CUresult cuMemHostRegister_v2(void *address, size_t bytes, unsigned flags) {
  ENTER(CONTEXT, UNSAFE);
  if (!address || !bytes || (flags & ~15u)) return INVALID_VALUE;
  if (holding((uint64_t)address) != live.end()) return HOST_MEMORY_ALREADY_REGISTERED;
  live[(uint64_t)address] =
      Allocation{current_context_id(), true, true, (char *)address, bytes, bytes, ++allocations};
  return SUCCESS;
}

EXPORT CUresult cuMemHostUnregister(void *address) {
  ENTER(CONTEXT, UNSAFE);
  auto it = live.find((uint64_t)address);
  if (it == live.end() || !it->second.registered) return HOST_MEMORY_NOT_REGISTERED;
  release(it);
  return SUCCESS;
}

EXPORT CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *out, void *address, unsigned flags) {
  ENTER(CONTEXT);
  auto it = holding((uint64_t)address);
  if (!out || flags || it == live.end() || !it->second.host) return INVALID_VALUE;
  *out = (CUdeviceptr)address;
  return SUCCESS;
}

EXPORT CUresult cuMemGetAddressRange_v2(CUdeviceptr *first, size_t *bytes, CUdeviceptr address) {
  ENTER(CONTEXT);
  auto it = holding(address);
  if (it == live.end()) return NOT_FOUND;
  if (first) *first = it->first;
  if (bytes) *bytes = it->second.bytes;
  return SUCCESS;
}

#define COPY(name, to_type, from_type, to_device, from_device)                                             \
  EXPORT CUresult name##_v2(to_type to, from_type from, size_t bytes) {                                    \
    ENTER(CONTEXT, UNSAFE);                                                                                \
    return copy(#name, (CUdeviceptr)to, (CUdeviceptr)from, bytes, to_device, from_device, nullptr, true);  \
  }                                                                                                        \
  EXPORT CUresult name##Async_v2(to_type to, from_type from, size_t bytes, Handle stream) {                \
    ENTER(CONTEXT);                                                                                        \
    return copy(#name "Async", (CUdeviceptr)to, (CUdeviceptr)from, bytes, to_device, from_device, stream,  \
                false);                                                                                    \
  }
COPY(cuMemcpyHtoD, CUdeviceptr, const void *, 1, 0)
COPY(cuMemcpyDtoH, void *, CUdeviceptr, 0, 1)
// Between device addresses no host waits: the driver queues it like a launch on the null stream.
EXPORT CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  ENTER(CONTEXT);
  return copy("cuMemcpyDtoD", to, from, bytes, 1, 1, nullptr, false);
}
EXPORT CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, Handle stream) {
  ENTER(CONTEXT);
  return copy("cuMemcpyDtoDAsync", to, from, bytes, 1, 1, stream, false);
}

#define FILL(name, type, width)                                                                            \
  EXPORT CUresult name##_v2(CUdeviceptr to, type value, size_t count) {                                    \
    ENTER(CONTEXT);                                                                                        \
    return fill(#name, to, value, width, count, nullptr);                                                  \
  }                                                                                                        \
  EXPORT CUresult name##Async(CUdeviceptr to, type value, size_t count, Handle stream) {                   \
    ENTER(CONTEXT);                                                                                        \
    return fill(#name "Async", to, value, width, count, stream);                                           \
  }
FILL(cuMemsetD8, unsigned char, 1)
FILL(cuMemsetD16, unsigned short, 2)
FILL(cuMemsetD32, unsigned int, 4)
