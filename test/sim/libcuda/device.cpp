// Devices and contexts of the stand-in driver: it pretends one sm_90, and says so in its name.
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "state.h"

bool initialised;

namespace {

struct Primary {
  std::shared_ptr<Context> context;
  Handle handle = nullptr;
  int held = 0;
  unsigned flags = 0;
};

Handles<Context> contexts(7);
std::map<int, Primary> primaries;
int next_context = 1;
thread_local std::vector<Handle> current;

int device_count() { return atoi(setting("SIM_DEVICES", "1").c_str()); }
bool is_device_number(CUdevice device) { return device >= 0 && device < device_count(); }

Handle make_context(bool primary, unsigned flags) {
  auto context = std::make_shared<Context>();
  context->id = next_context++;
  context->primary = primary;
  context->flags = flags;
  return contexts.add(context);
}

void destroy(Handle handle) {
  auto context = contexts.find(handle);
  free_context_memory(context->id);
  free_context_modules(context->id);
  context->streams.clear();
  contexts.remove(handle);
}

// An H100 SXM's attributes, by the numbers of CUdevice_attribute; -1 where it is not known here.
int attribute_of(int attribute) {
  static const std::map<int, int> values = {
      {1, 1024}, {2, 1024}, {3, 1024}, {4, 64}, {5, 0x7fffffff}, {6, 65535}, {7, 65535}, {8, 49152},
      {9, 65536}, {10, 32}, {11, 0x7fffffff}, {12, 65536}, {13, 1980000}, {14, 512}, {15, 1}, {16, 132},
      {17, 0}, {18, 0}, {19, 1}, {20, 0}, {30, 512}, {31, 1}, {32, 1}, {33, 1}, {34, 0}, {35, 0},
      {36, 2619000}, {37, 5120}, {38, 50 << 20}, {39, 2048}, {40, 3}, {41, 1}, {50, 0}, {51, 32}, {75, 9},
      {76, 0}, {78, 1}, {79, 1}, {80, 1}, {81, 233472}, {82, 65536}, {83, 1}, {84, 0}, {85, 0}, {86, 0},
      {87, 2}, {88, 0}, {89, 1}, {90, 1}, {91, 1}, {95, 1}, {96, 0}, {97, 232448}, {98, 1}, {99, 1}, {100, 0},
      {101, 0}, {102, 1}, {103, 1}, {106, 32}, {107, 0}, {108, 32 << 20}, {109, 128 << 20}, {110, 1},
      {111, 1024}, {115, 0}, {116, 1}, {120, 1}, {124, 1}, {125, 1}, {127, 1}, {129, 1}, {130, 0}, {134, 0},
  };
  auto found = values.find(attribute);
  return found == values.end() ? -1 : found->second;
}

}  // namespace

std::shared_ptr<Context> current_context() {
  return current.empty() ? nullptr : contexts.find(current.back());
}
int current_context_id() {
  auto context = current_context();
  return context ? context->id : 0;
}

EXPORT CUresult cuInit(unsigned flags) {
  ENTER(NOTHING);
  if (flags) return INVALID_VALUE;
  if (device_count() < 1) return NO_DEVICE;
  initialised = true;
  return SUCCESS;
}

EXPORT CUresult cuDriverGetVersion(int *out) {
  ENTER(NOTHING);
  if (!out) return INVALID_VALUE;
  *out = atoi(setting("SIM_DRIVER_VERSION", "13000").c_str());
  return SUCCESS;
}

EXPORT CUresult cuDeviceGetCount(int *out) {
  ENTER(DRIVER);
  if (!out) return INVALID_VALUE;
  *out = device_count();
  return SUCCESS;
}

EXPORT CUresult cuDeviceGet(CUdevice *out, int ordinal) {
  ENTER(DRIVER);
  if (!out) return INVALID_VALUE;
  if (!is_device_number(ordinal)) return INVALID_DEVICE;
  *out = ordinal;
  return SUCCESS;
}

EXPORT CUresult cuDeviceGetName(char *out, int bytes, CUdevice device) {
  ENTER(DRIVER);
  if (!out || bytes < 1) return INVALID_VALUE;
  if (!is_device_number(device)) return INVALID_DEVICE;
  strncpy(out, "Stand-in GPU (no hardware)", size_t(bytes));
  out[bytes - 1] = 0;
  return SUCCESS;
}

EXPORT CUresult cuDeviceGetAttribute(int *out, int attribute, CUdevice device) {
  ENTER(DRIVER);
  if (!out) return INVALID_VALUE;
  if (!is_device_number(device)) return INVALID_DEVICE;
  if (attribute_of(attribute) < 0)
    return complain(INVALID_VALUE, "device attribute %d is not known here", attribute);
  *out = attribute_of(attribute);
  return SUCCESS;
}

EXPORT CUresult cuDeviceTotalMem_v2(size_t *out, CUdevice device) {
  ENTER(DRIVER);
  if (!out) return INVALID_VALUE;
  if (!is_device_number(device)) return INVALID_DEVICE;
  *out = strtoull(setting("SIM_MEMORY", "2147483648").c_str(), nullptr, 10);
  return SUCCESS;
}

EXPORT CUresult cuDeviceGetUuid_v2(unsigned char *out, CUdevice device) {
  ENTER(DRIVER);
  if (!out) return INVALID_VALUE;
  if (!is_device_number(device)) return INVALID_DEVICE;
  memcpy(out, "stand-in gpu 000", 16);
  out[15] = (unsigned char)('0' + device);
  return SUCCESS;
}

EXPORT CUresult cuDeviceGetPCIBusId(char *out, int bytes, CUdevice device) {
  ENTER(DRIVER);
  if (!out || bytes < 13) return INVALID_VALUE;
  if (!is_device_number(device)) return INVALID_DEVICE;
  strcpy(out, "0000:01:00.0");
  return SUCCESS;
}

// ---- contexts --------------------------------------------------------------------------------------------

EXPORT CUresult cuDevicePrimaryCtxRetain(Handle *out, CUdevice device) {
  ENTER(DRIVER);
  if (!out) return INVALID_VALUE;
  if (!is_device_number(device)) return INVALID_DEVICE;
  Primary &primary = primaries[device];
  if (!primary.held++) primary.handle = make_context(true, primary.flags);
  *out = primary.handle;
  return SUCCESS;
}

EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  ENTER(DRIVER);
  if (!is_device_number(device)) return INVALID_DEVICE;
  Primary &primary = primaries[device];
  if (!primary.held) return complain(INVALID_CONTEXT, "the primary context is released more often than held");
  if (!--primary.held) destroy(primary.handle);
  return SUCCESS;
}

EXPORT CUresult cuDevicePrimaryCtxReset_v2(CUdevice device) {
  ENTER(DRIVER);
  if (!is_device_number(device)) return INVALID_DEVICE;
  Primary &primary = primaries[device];
  if (primary.held) destroy(primary.handle);
  primary.held = 0;
  return SUCCESS;
}

EXPORT CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice device, unsigned flags) {
  ENTER(DRIVER);
  if (!is_device_number(device)) return INVALID_DEVICE;
  if (flags & ~0xFFu) return INVALID_VALUE;
  primaries[device].flags = flags;
  return SUCCESS;
}

EXPORT CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active) {
  ENTER(DRIVER);
  if (!is_device_number(device)) return INVALID_DEVICE;
  if (!flags || !active) return INVALID_VALUE;
  *flags = primaries[device].flags;
  *active = primaries[device].held > 0;
  return SUCCESS;
}

EXPORT CUresult cuCtxSetCurrent(Handle context) {
  ENTER(DRIVER);
  if (context && !contexts.find(context)) return complain(INVALID_CONTEXT, "cuCtxSetCurrent: not a context");
  if (!current.empty()) current.pop_back();
  if (context) current.push_back(context);
  return SUCCESS;
}

EXPORT CUresult cuCtxGetCurrent(Handle *out) {
  ENTER(DRIVER);
  if (!out) return INVALID_VALUE;
  *out = current.empty() ? nullptr : current.back();
  return SUCCESS;
}

EXPORT CUresult cuCtxPushCurrent_v2(Handle context) {
  ENTER(DRIVER);
  if (!contexts.find(context)) return complain(INVALID_CONTEXT, "cuCtxPushCurrent: not a context");
  current.push_back(context);
  return SUCCESS;
}

EXPORT CUresult cuCtxPopCurrent_v2(Handle *out) {
  ENTER(DRIVER);
  if (current.empty()) return INVALID_CONTEXT;
  if (out) *out = current.back();
  current.pop_back();
  return SUCCESS;
}

EXPORT CUresult cuCtxGetDevice(CUdevice *out) {
  ENTER(CONTEXT);
  if (!out) return INVALID_VALUE;
  *out = 0;
  for (auto &[device, primary] : primaries)
    if (primary.held && primary.handle == current.back()) *out = device;
  return SUCCESS;
}

EXPORT CUresult cuCtxCreate_v2(Handle *out, unsigned flags, CUdevice device) {
  ENTER(DRIVER);
  if (!out || (flags & ~0xFFu)) return INVALID_VALUE;
  if (!is_device_number(device)) return INVALID_DEVICE;
  *out = make_context(false, flags);
  current.push_back(*out);
  return SUCCESS;
}

EXPORT CUresult cuCtxDestroy_v2(Handle handle) {
  ENTER(DRIVER);
  auto context = contexts.find(handle);
  if (!context || context->primary)
    return complain(INVALID_CONTEXT, "cuCtxDestroy: not a context of its own");
  destroy(handle);
  if (!current.empty() && current.back() == handle) current.pop_back();
  return SUCCESS;
}

EXPORT CUresult cuCtxSynchronize() {
  ENTER(CONTEXT, UNSAFE);
  return finish_context();
}

EXPORT CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest) {
  ENTER(CONTEXT);
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return SUCCESS;
}

EXPORT CUresult cuCtxGetLimit(size_t *out, int limit) {
  ENTER(CONTEXT);
  if (!out) return INVALID_VALUE;
  if (limit < 0 || limit > 2) return UNSUPPORTED_LIMIT;
  *out = limit == 0 ? 1024 : limit == 1 ? 1 << 20 : 8 << 20;
  return SUCCESS;
}

EXPORT CUresult cuCtxSetLimit(int limit, size_t) {
  ENTER(CONTEXT);
  return limit < 0 || limit > 2 ? UNSUPPORTED_LIMIT : SUCCESS;
}

// The address of an entry point by its name without a suffix, as newest as it is here.
EXPORT CUresult cuGetProcAddress_v2(const char *name, void **out, int, uint64_t, int *found) {
  ENTER(NOTHING);
  if (!name || !out) return INVALID_VALUE;
  *out = nullptr;
  static void *self = dlopen((own_folder() + "/libcuda.so.1").c_str(), RTLD_NOW | RTLD_NOLOAD);
  for (const char *suffix : {"_v2", ""})
    if (self && !*out) *out = dlsym(self, (std::string(name) + suffix).c_str());
  if (found) *found = *out ? 0 : 1;
  return *out ? SUCCESS : NOT_FOUND;
}
