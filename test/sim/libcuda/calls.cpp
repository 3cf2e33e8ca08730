// The gate of every driver call: lock, counts, failures on demand, the log, settings and the words for
// statuses; and the sim_ functions for tests.
//
// Settings come from the environment or from sim_set(name, value):
//   SIM_ORDER            forward | reverse | random: order of threads, blocks and free graph nodes
//   SIM_MEMORY           bytes on the device (2 GiB)
//   SIM_FAIL             call:N:status[,...]: the Nth call of that name fails; 0 = every one
//   SIM_DRIVER_VERSION   what cuDriverGetVersion says (13000)
//   SIM_DEVICES          how many devices (1)
//   SIM_LOG              a file for counts and complaints as JSON, written when the process ends
//   SIM_CUDNN_...        as libcudnn.cpp says
//   SIM_QUIET            1: complaints are kept, not printed
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "state.h"

namespace {

std::recursive_mutex lock;
std::map<std::string, long> calls, launches;
std::map<std::string, std::string> settings;
std::vector<std::string> complaints;

const struct {
  int status;
  const char *name, *words;
} status_words[] = {
    {0, "CUDA_SUCCESS", "no error"},
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {4, "CUDA_ERROR_DEINITIALIZED", "driver shutting down"},
    {46, "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {200, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {214, "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"},
    {215, "CUDA_ERROR_UNSUPPORTED_LIMIT", "limit is not supported on this architecture"},
    {218, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
    {220, "CUDA_ERROR_NVLINK_UNCORRECTABLE", "uncorrectable NVLink error detected during the execution"},
    {221, "CUDA_ERROR_JIT_COMPILER_NOT_FOUND", "PTX JIT compiler library not found"},
    {222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
     "the provided PTX was compiled with an unsupported toolchain."},
    {301, "CUDA_ERROR_FILE_NOT_FOUND", "file not found"},
    {304, "CUDA_ERROR_OPERATING_SYSTEM", "OS call failed or operation not supported on this OS"},
    {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {401, "CUDA_ERROR_ILLEGAL_STATE", "the operation cannot be performed in the present state"},
    {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {600, "CUDA_ERROR_NOT_READY", "device not ready"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {702, "CUDA_ERROR_LAUNCH_TIMEOUT", "the launch timed out and was terminated"},
    {708, "CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE", "cannot set while device is active in this process"},
    {709, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"},
    {710, "CUDA_ERROR_ASSERT", "device-side assert triggered"},
    {712, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED",
     "part or all of the requested memory range is already mapped"},
    {713, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED",
     "pointer does not correspond to a registered memory region"},
    {715, "CUDA_ERROR_ILLEGAL_INSTRUCTION", "an illegal instruction was encountered"},
    {716, "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {800, "CUDA_ERROR_NOT_PERMITTED", "operation not permitted"},
    {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {802, "CUDA_ERROR_SYSTEM_NOT_READY", "system not yet initialized"},
    {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
     "system has unsupported display driver / cuda driver combination"},
    {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
    {902, "CUDA_ERROR_STREAM_CAPTURE_MERGE",
     "operation would result in a merge of separate capture sequences"},
    {903, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "capture was not ended in the same stream as it began"},
    {904, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "capturing stream has unjoined work"},
    {905, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "dependency created on uncaptured work in another stream"},
    {906, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT",
     "operation would make the legacy stream depend on a capturing blocking stream"},
    {907, "CUDA_ERROR_CAPTURED_EVENT",
     "operation not permitted on an event last recorded in a capturing stream"},
    {908, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD",
     "attempt to terminate a thread-local capture sequence from another thread"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

// Statuses after which a context cannot be used any more.
bool loses_context(CUresult status) {
  switch (status) {
    case 214: case 220: case 700: case 702: case 710: case 714: case 715: case 716: case 717: case 718:
    case 719: case 999:
      return true;
    default:
      return false;
  }
}

// The status that SIM_FAIL asks for, or 0.
CUresult asked_for(const char *name, long count) {
  std::string list = setting("SIM_FAIL", "");
  for (size_t at = 0; at < list.size();) {
    size_t end = list.find(',', at);
    if (end == std::string::npos) end = list.size();
    std::string one = list.substr(at, end - at);
    at = end + 1;
    size_t first = one.find(':'), second = one.rfind(':');
    if (first == std::string::npos || first == second || one.substr(0, first) != name) continue;
    long which = atol(one.c_str() + first + 1);
    if (which == 0 || which == count) return atoi(one.c_str() + second + 1);
  }
  return SUCCESS;
}

std::string quoted(const std::string &text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out + "\"";
}

std::string counts_json(const std::map<std::string, long> &counts) {
  std::string out = "{";
  for (auto &[name, count] : counts)
    out += (out.size() > 1 ? ", " : "") + quoted(name) + ": " + std::to_string(count);
  return out + "}";
}

void write_log() {
  std::string path = setting("SIM_LOG", "");
  if (path.empty()) return;
  FILE *file = fopen(path.c_str(), "w");
  if (!file) return;
  std::string list;
  for (auto &complaint : complaints) list += (list.empty() ? "" : ", ") + quoted(complaint);
  fprintf(file, "{\"calls\": %s,\n \"launches\": %s,\n \"peak_bytes\": %zu,\n \"complaints\": [%s]}\n",
          counts_json(calls).c_str(), counts_json(launches).c_str(), peak_memory(), list.c_str());
  fclose(file);
}

// Bun ends by quick_exit, which runs no destructors.
struct AtEnd {
  AtEnd() { at_quick_exit(write_log); }
  ~AtEnd() { write_log(); }
} at_end;

}  // namespace

Call::Call(const char *name, Needs needs, Safety safety) : status(SUCCESS), lock_(lock) {
  long count = ++calls[name];
  auto context = current_context();
  status = asked_for(name, count);
  if (status) {
    if (context && loses_context(status)) context->lost = status;
    return;
  }
  if (needs == NOTHING) return;
  if (!initialised) status = NOT_INITIALIZED;
  if (status || needs == DRIVER) return;
  if (!context) status = INVALID_CONTEXT;
  else if (context->lost) status = context->lost;
  else if (safety == UNSAFE && capture_forbids())
    status = complain(CAPTURE_UNSUPPORTED, "%s inside a capture, which it ends", name);
}

CUresult complain(CUresult status, const char *format, ...) {
  char text[1024];
  va_list list;
  va_start(list, format);
  vsnprintf(text, sizeof text, format, list);
  va_end(list);
  complaints.push_back(text);
  if (setting("SIM_QUIET", "0") != "1")
    fprintf(stderr, "stand-in libcuda: %s (%s)\n", text, status_name(status));
  return status;
}

const char *status_name(CUresult status) {
  for (auto &one : status_words)
    if (one.status == status) return one.name;
  return "CUDA_ERROR_UNKNOWN";
}

std::string setting(const char *name, const char *otherwise) {
  auto found = settings.find(name);
  if (found != settings.end()) return found->second;
  const char *value = getenv(name);
  return value && *value ? value : otherwise;
}

void count_launch(const std::string &kernel) { ++launches[kernel]; }

EXPORT CUresult cuGetErrorName(CUresult status, const char **out) {
  ENTER(NOTHING);
  if (!out) return INVALID_VALUE;
  *out = nullptr;
  for (auto &one : status_words)
    if (one.status == status) *out = one.name;
  return *out ? SUCCESS : INVALID_VALUE;
}

EXPORT CUresult cuGetErrorString(CUresult status, const char **out) {
  ENTER(NOTHING);
  if (!out) return INVALID_VALUE;
  *out = nullptr;
  for (auto &one : status_words)
    if (one.status == status) *out = one.words;
  return *out ? SUCCESS : INVALID_VALUE;
}

// ---- for tests and for the other stand-ins ---------------------------------------------------------------

// The gate of calls of the other stand-ins: counts, and returns the status that SIM_FAIL asks for.
EXPORT int sim_gate(const char *name) { return Call(name, NOTHING).status; }

EXPORT const char *sim_setting(const char *name) {
  static std::map<std::string, std::string> asked;
  std::lock_guard<std::recursive_mutex> hold(lock);
  return (asked[name] = setting(name, "")).c_str();
}

// Calls of one entry point so far; an empty name: of all of them.
EXPORT long sim_calls(const char *name) {
  std::lock_guard<std::recursive_mutex> hold(lock);
  if (*name) return calls.count(name) ? calls[name] : 0;
  long sum = 0;
  for (auto &[each, count] : calls)
    if (each.compare(0, 4, "sim_")) sum += count;
  return sum;
}

// Calls by name since this was called last, as JSON.
EXPORT const char *sim_take_calls() {
  static std::map<std::string, long> before;
  static std::string text;
  std::lock_guard<std::recursive_mutex> hold(lock);
  std::map<std::string, long> since;
  for (auto &[name, count] : calls)
    if (name.compare(0, 4, "sim_") && count != before[name]) since[name] = count - before[name];
  before = calls;
  text = counts_json(since);
  return text.c_str();
}

// Times that a kernel ran, by replay as well; an empty name: all kernels.
EXPORT long sim_launches(const char *kernel) {
  std::lock_guard<std::recursive_mutex> hold(lock);
  if (*kernel) return launches.count(kernel) ? launches[kernel] : 0;
  long sum = 0;
  for (auto &[each, count] : launches) sum += count;
  return sum;
}

EXPORT long sim_complaints() { return (long)complaints.size(); }
// The last complaint, or an empty text.
EXPORT const char *sim_message() { return complaints.empty() ? "" : complaints.back().c_str(); }
EXPORT void sim_set(const char *name, const char *value) {
  std::lock_guard<std::recursive_mutex> hold(lock);
  settings[name] = value;
}
EXPORT void sim_log() { write_log(); }
