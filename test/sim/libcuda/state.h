// The stand-in driver's parts and how they fit: what a call, a piece of work, a stream, a capture and an
// allocation are. Test source only: the product never links or ships it.
//
// Work is queued and runs only where a call waits for it, as late as the rules of streams allow: whoever
// frees memory, changes a host buffer or reads a result too early is noticed. A fault inside work makes the
// context unusable, as on a GPU: every later call returns the same status.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "../stand-in.h"

typedef int CUresult;
typedef int CUdevice;
typedef uint64_t CUdeviceptr;
typedef void *Handle;

// Values of cuda.h, 13.0.
enum Status : int {
  SUCCESS = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  NOT_INITIALIZED = 3,
  NO_DEVICE = 100,
  INVALID_DEVICE = 101,
  INVALID_IMAGE = 200,
  INVALID_CONTEXT = 201,
  NO_BINARY_FOR_GPU = 209,
  ECC_UNCORRECTABLE = 214,
  UNSUPPORTED_LIMIT = 215,
  FILE_NOT_FOUND = 301,
  INVALID_HANDLE = 400,
  ILLEGAL_STATE = 401,
  NOT_FOUND = 500,
  NOT_READY = 600,
  ILLEGAL_ADDRESS = 700,
  PRIMARY_CONTEXT_ACTIVE = 708,
  HOST_MEMORY_ALREADY_REGISTERED = 712,
  HOST_MEMORY_NOT_REGISTERED = 713,
  LAUNCH_FAILED = 719,
  NOT_SUPPORTED = 801,
  CAPTURE_UNSUPPORTED = 900,
  CAPTURE_INVALIDATED = 901,
  CAPTURE_MERGE = 902,
  CAPTURE_UNMATCHED = 903,
  CAPTURE_UNJOINED = 904,
  CAPTURE_ISOLATION = 905,
  CAPTURE_IMPLICIT = 906,
  CAPTURED_EVENT = 907,
  UNKNOWN = 999,
};

// ---- work and streams (streams.cpp, graphs.cpp) ----------------------------------------------------------

// One piece of device work. `run` may be called many times: it owns copies of all it needs. The host ranges
// are what an asynchronous copy reads or writes, so that its client's haste can be noticed.
struct Work {
  std::string what;
  std::function<CUresult()> run;
  const void *host_read = nullptr;
  void *host_write = nullptr;
  size_t host_bytes = 0;
};

struct Command {
  Work work;
  std::vector<std::shared_ptr<Command>> after;
  std::vector<std::pair<const Work *, uint64_t>> sources;  // host ranges as they were when it was queued
  std::shared_ptr<void> owner;                             // keeps the works of a graph alive
  bool done = false;
  double finished = 0;  // milliseconds, for cuEventElapsedTime
};
typedef std::shared_ptr<Command> CommandPtr;

struct Node {
  Work work;
  std::vector<size_t> after;
};

struct Capture {
  int mode;
  uint64_t thread;
  bool invalid = false;
  std::vector<Node> nodes;
};

struct Stream {
  int context;
  unsigned flags;  // 1: does not wait for the null stream
  int priority;
  Handle handle;
  CommandPtr tail;
  std::shared_ptr<Capture> capture;
  bool origin = false;
  std::vector<size_t> capture_tail;
};

struct Event {
  int context;
  unsigned flags;  // 2: no timing
  CommandPtr recorded;
  std::weak_ptr<Capture> capture;
  bool in_capture = false;
  std::vector<size_t> capture_after;
};

struct Graph {
  std::vector<Node> nodes;
};

struct Context {
  int id = 0;
  bool primary = false;
  unsigned flags = 0;
  CUresult lost = SUCCESS;
  CommandPtr null_tail;
  std::vector<CommandPtr> loose;  // tails of destroyed streams
  std::vector<std::shared_ptr<Stream>> streams;
};

// Objects behind handles. Handles are never used twice, so a stale one is told from a live one.
template <class T> class Handles {
 public:
  explicit Handles(uint64_t kind) : next_(0x510000000000u + (kind << 32)) {}
  Handle add(std::shared_ptr<T> object) {
    Handle handle = (Handle)(next_ += 64);
    objects_[handle] = std::move(object);
    return handle;
  }
  std::shared_ptr<T> find(Handle handle) const {
    auto found = objects_.find(handle);
    return found == objects_.end() ? nullptr : found->second;
  }
  bool remove(Handle handle) { return objects_.erase(handle) > 0; }
  template <class Test> void remove_if(Test test) {
    for (auto it = objects_.begin(); it != objects_.end();)
      it = test(*it->second) ? objects_.erase(it) : ++it;
  }

 private:
  uint64_t next_;
  std::map<Handle, std::shared_ptr<T>> objects_;
};

// Hands work to a stream: queued, or added to the capture that the stream is in.
CUresult submit(const std::shared_ptr<Stream> &stream, Work work);
CommandPtr enqueue(const std::shared_ptr<Stream> &stream, Work work, std::vector<const Work *> parts,
                   std::shared_ptr<void> owner);
// Runs all that `goal` waits for, then `goal`; `steps` > 0: at most that many pieces of work.
CUresult finish(const CommandPtr &goal, int steps = 0);
CUresult finish_context();
std::shared_ptr<Stream> stream_of(Handle handle);
std::shared_ptr<Stream> null_stream();
// Whether a capture forbids this thread what might wait; if so the capture is invalid from now on.
bool capture_forbids();
std::vector<std::shared_ptr<Stream>> live_streams();

// ---- calls (calls.cpp) -----------------------------------------------------------------------------------

enum Needs { NOTHING, DRIVER, CONTEXT };
enum Safety { SAFE, UNSAFE };  // UNSAFE: forbidden while a stream is captured, and ends the capture

// Stands at the beginning of every entry point: holds the lock, counts, and says what must be returned at
// once (failure asked for by SIM_FAIL, no context, a lost context, forbidden in capture).
class Call {
 public:
  Call(const char *name, Needs needs, Safety safety = SAFE);
  CUresult status;

 private:
  std::lock_guard<std::recursive_mutex> lock_;
};
#define ENTER(...)                 \
  Call call(__func__, __VA_ARGS__); \
  if (call.status) return call.status

// A misuse or fault: remembered, counted and printed on stderr. Returns `status`.
CUresult complain(CUresult status, const char *format, ...) __attribute__((format(printf, 2, 3)));
const char *status_name(CUresult status);
std::string setting(const char *name, const char *otherwise);
void count_launch(const std::string &kernel);

extern bool initialised;
std::shared_ptr<Context> current_context();
int current_context_id();

// ---- memory (memory.cpp) ---------------------------------------------------------------------------------

// Device memory can be touched only while one of these lives: host code that follows a device pointer faults.
class DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
};

// Says in `why` what is wrong with a range of device memory, or returns true. Pinned host memory counts as
// device memory, as under unified addressing.
bool live_range(CUdeviceptr address, size_t bytes, std::string *why);
bool is_device(uint64_t address);
// Copies between host and host memory that may be gone. False: the address cannot be read.
bool copy_from_host(void *to, const void *from, size_t bytes);
// Name of an allocation whose surroundings were written to, or an empty text.
std::string broken_canary();
void poison_host(void *address, size_t bytes);
size_t peak_memory();
void free_context_memory(int context);

// ---- kernels (kernels.cpp) -------------------------------------------------------------------------------

void free_context_modules(int context);
std::string own_folder();
