// Modules, functions and launches of the stand-in driver. The image of a module is the text "sim SET": the
// kernels of kernels_SET.so beside this library, which are the sources of cuda/ in their GPU form, compiled
// by g++ (emulator.h runs their threads).
#include <dlfcn.h>
#include <string.h>

#include "../emulator.h"
#include "../stand-in.h"
#include "state.h"

namespace {

struct KernelSet {
  const sim_kernel *first, *last;
  decltype(&sim_run) run;
  decltype(&sim_reason) reason;
};

struct Module {
  int context;
  std::string set;
  KernelSet kernels;
  std::vector<Handle> functions;
};

struct Function {
  int context;
  const sim_kernel *kernel;
  KernelSet kernels;
  int dynamic_limit = 48 << 10;
};

const int OPT_IN = 232448;  // bytes of shared memory that one block may have on sm_90: 227 KiB

Handles<Module> modules(5);
Handles<Function> functions(6);
unsigned launch_number;

bool starts_with(const void *image, const char *bytes, size_t count) {
  return memcmp(image, bytes, count) == 0;
}

// The set that an image names, or an empty text.
std::string set_named(const char *image) {
  if (!starts_with(image, "sim ", 4)) return "";
  std::string set;
  for (const char *p = image + 4; *p && strchr(" \n", *p) == nullptr && set.size() < 60; ++p) set += *p;
  return set.find('/') == std::string::npos ? set : "";
}

CUresult load(Handle *out, const void *image) {
  if (!out || !image) return INVALID_VALUE;
  std::string set = set_named((const char *)image);
  if (set.empty()) {
    if (starts_with(image, "\x50\xed\x55\xba", 4) || starts_with(image, "\x7f" "ELF", 4))
      return complain(NO_BINARY_FOR_GPU, "a real GPU image: the stand-in takes the text \"sim SET\"");
    return INVALID_IMAGE;
  }
  std::string path = own_folder() + "/kernels_" + set + ".so";
  void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) return complain(INVALID_IMAGE, "%s", dlerror());
  typedef const sim_kernel *(*Edge)();
  Edge begin = (Edge)dlsym(library, "sim_kernels_begin"), end = (Edge)dlsym(library, "sim_kernels_end");
  auto run = (decltype(&sim_run))dlsym(library, "sim_run");
  auto reason = (decltype(&sim_reason))dlsym(library, "sim_reason");
  if (!begin || !end || !run || !reason) return complain(INVALID_IMAGE, "%s holds no kernels", path.c_str());
  auto module = std::make_shared<Module>();
  module->context = current_context_id();
  module->set = set;
  module->kernels = KernelSet{begin(), end(), run, reason};
  *out = modules.add(module);
  return SUCCESS;
}

std::shared_ptr<Function> function_of(Handle handle) {
  auto function = functions.find(handle);
  return function && function->context == current_context_id() ? function : nullptr;
}

// A slot that looks like an address must lie in live memory: pointers are the only slots of that size.
bool arguments_live(const char *name, const std::vector<char> &arguments) {
  for (size_t slot = 0; slot * 8 < arguments.size(); ++slot) {
    uint64_t value;
    memcpy(&value, &arguments[slot * 8], 8);
    if (value < (uint64_t(1) << 32) || value >= (uint64_t(1) << 47)) continue;
    std::string why;
    if (live_range(value, 1, &why)) continue;
    complain(ILLEGAL_ADDRESS, "%s: argument slot %zu: %s", name, slot, why.c_str());
    return false;
  }
  return true;
}

CUresult run_kernel(const Function &function, sim_dim grid, sim_dim block, unsigned shared,
                    const std::vector<char> &arguments, unsigned seed) {
  const char *name = function.kernel->name;
  count_launch(name);
  if (!arguments_live(name, arguments)) return ILLEGAL_ADDRESS;
  std::string order = setting("SIM_ORDER", "forward");
  const void *fault = nullptr;
  int code = function.kernels.run(function.kernel, grid, block, shared, arguments.data(),
                                  order == "reverse"  ? SIM_REVERSE
                                  : order == "random" ? SIM_RANDOM
                                                      : SIM_FORWARD,
                                  seed, &fault);
  if (code == SIM_FAULT) {
    std::string why = function.kernels.reason();
    live_range((CUdeviceptr)fault, 1, &why);
    return complain(ILLEGAL_ADDRESS, "%s: memory fault at %p: %s", name, fault, why.c_str());
  }
  if (code) return complain(LAUNCH_FAILED, "%s: %s", name, function.kernels.reason());
  std::string broken = broken_canary();
  if (!broken.empty()) return complain(ILLEGAL_ADDRESS, "%s wrote beside %s", name, broken.c_str());
  return SUCCESS;
}

}  // namespace

std::string own_folder() {
  Dl_info info;
  if (!dladdr((void *)own_folder, &info) || !info.dli_fname) return ".";
  std::string path = info.dli_fname;
  size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

void free_context_modules(int context) {
  modules.remove_if([=](const Module &module) { return module.context == context; });
  functions.remove_if([=](const Function &function) { return function.context == context; });
}

EXPORT CUresult cuModuleLoadData(Handle *out, const void *image) {
  ENTER(CONTEXT, UNSAFE);
  return load(out, image);
}

EXPORT CUresult cuModuleLoadDataEx(Handle *out, const void *image, unsigned count, int *, void **) {
  ENTER(CONTEXT, UNSAFE);
  return count > 64 ? INVALID_VALUE : load(out, image);
}

EXPORT CUresult cuModuleUnload(Handle handle) {
  ENTER(CONTEXT, UNSAFE);
  auto module = modules.find(handle);
  if (!module) return complain(INVALID_HANDLE, "cuModuleUnload: not a module");
  for (Handle function : module->functions) functions.remove(function);
  modules.remove(handle);
  return SUCCESS;
}

EXPORT CUresult cuModuleGetFunction(Handle *out, Handle handle, const char *name) {
  ENTER(CONTEXT);
  auto module = modules.find(handle);
  if (!out || !name) return INVALID_VALUE;
  if (!module || module->context != current_context_id())
    return complain(INVALID_HANDLE, "cuModuleGetFunction: not a module of this context");
  for (const sim_kernel *kernel = module->kernels.first; kernel < module->kernels.last; ++kernel) {
    if (strcmp(kernel->name, name)) continue;
    auto function = std::make_shared<Function>();
    function->context = current_context_id();
    function->kernel = kernel;
    function->kernels = module->kernels;
    *out = functions.add(function);
    module->functions.push_back(*out);
    return SUCCESS;
  }
  return NOT_FOUND;
}

EXPORT CUresult cuModuleGetGlobal_v2(CUdeviceptr *, size_t *, Handle, const char *) {
  ENTER(CONTEXT);
  return NOT_FOUND;
}

EXPORT CUresult cuFuncGetAttribute(int *out, int attribute, Handle handle) {
  ENTER(CONTEXT);
  auto function = function_of(handle);
  if (!function) return INVALID_HANDLE;
  if (!out) return INVALID_VALUE;
  switch (attribute) {
    case 0: *out = 1024; break;                     // threads of a block
    case 1: case 2: case 3: case 7: *out = 0; break;  // static shared, constant, local memory; cache mode
    case 4: *out = 32; break;                       // registers
    case 5: case 6: *out = 90; break;               // PTX and binary version
    case 8: *out = function->dynamic_limit; break;
    case 9: *out = -1; break;
    default: return INVALID_VALUE;
  }
  return SUCCESS;
}

EXPORT CUresult cuFuncSetAttribute(Handle handle, int attribute, int value) {
  ENTER(CONTEXT);
  auto function = function_of(handle);
  if (!function) return complain(INVALID_HANDLE, "cuFuncSetAttribute: not a function of this context");
  if (attribute == 9) return value < -1 || value > 100 ? INVALID_VALUE : SUCCESS;
  if (attribute != 8) return INVALID_VALUE;
  if (value < 0 || value > OPT_IN)
    return complain(INVALID_VALUE, "cuFuncSetAttribute: %d bytes of shared memory, at most %d", value,
                    OPT_IN);
  function->dynamic_limit = value;
  return SUCCESS;
}

EXPORT CUresult cuFuncSetCacheConfig(Handle handle, int config) {
  ENTER(CONTEXT);
  return !function_of(handle) ? INVALID_HANDLE : config < 0 || config > 3 ? INVALID_VALUE : SUCCESS;
}

EXPORT CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *out, Handle handle, int threads,
                                                            size_t shared) {
  ENTER(CONTEXT);
  if (!function_of(handle)) return INVALID_HANDLE;
  if (!out || threads < 1 || threads > 1024) return INVALID_VALUE;
  int by_threads = 2048 / ((threads + 31) / 32 * 32), by_shared = int(233472 / (shared + 1024));
  int blocks = by_threads < by_shared ? by_threads : by_shared;
  *out = blocks < 32 ? blocks : 32;
  return SUCCESS;
}

EXPORT CUresult cuLaunchKernel(Handle handle, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                               unsigned bz, unsigned shared, Handle stream_handle, void **parameters,
                               void **extra) {
  ENTER(CONTEXT);
  auto function = function_of(handle);
  auto stream = stream_of(stream_handle);
  if (!function) return complain(INVALID_HANDLE, "cuLaunchKernel: not a function of this context");
  const char *name = function->kernel->name;
  if (!stream) return complain(INVALID_HANDLE, "%s: not a stream of this context", name);
  if (!gx || !gy || !gz || gx > 0x7fffffffu || gy > 65535 || gz > 65535)
    return complain(INVALID_VALUE, "%s: a grid of %u x %u x %u blocks", name, gx, gy, gz);
  if (!bx || !by || !bz || bx > 1024 || by > 1024 || bz > 64 || uint64_t(bx) * by * bz > 1024)
    return complain(INVALID_VALUE, "%s: a block of %u x %u x %u threads", name, bx, by, bz);
  if ((int)shared < 0 || (int)shared > function->dynamic_limit)
    return complain(INVALID_VALUE, "%s: %u bytes of shared memory, %d are allowed", name, shared,
                    function->dynamic_limit);
  std::vector<char> arguments(function->kernel->bytes);
  if (extra) {
    // { 1, buffer, 2, address of its size, 0 }
    if (parameters || extra[0] != (void *)1 || extra[2] != (void *)2 || extra[4]) return INVALID_VALUE;
    size_t bytes = *(size_t *)extra[3];
    if (bytes != arguments.size())
      return complain(INVALID_VALUE, "%s: %zu bytes of arguments, it takes %zu", name, bytes,
                      arguments.size());
    if (bytes) memcpy(arguments.data(), extra[1], bytes);
  } else if (!arguments.empty()) {
    if (!parameters || !parameters[0])
      return complain(INVALID_VALUE, "%s: no address of its arguments", name);
    if (!copy_from_host(arguments.data(), parameters[0], arguments.size()))
      return complain(INVALID_VALUE, "%s: its arguments cannot be read", name);
  }
  sim_dim grid{gx, gy, gz}, block{bx, by, bz};
  unsigned seed = ++launch_number;
  return submit(stream, Work{name, [=] {
    return run_kernel(*function, grid, block, shared, arguments, seed);
  }});
}

// ---- for the stand-ins of libraries: see stand-in.h ------------------------------------------------------

EXPORT int sim_enqueue(Handle stream_handle, const char *what, int (*run)(void *data), const void *data,
                       size_t bytes) {
  ENTER(CONTEXT);
  auto stream = stream_of(stream_handle);
  if (!stream) return complain(INVALID_HANDLE, "%s: not a stream of this context", what);
  std::vector<char> copy((const char *)data, (const char *)data + bytes);
  std::string name = what;
  return submit(stream, Work{name, [=]() mutable {
    count_launch(name);
    CUresult status = run(copy.data());
    std::string broken = broken_canary();
    if (!broken.empty()) return complain(ILLEGAL_ADDRESS, "%s wrote beside %s", name.c_str(), broken.c_str());
    return status;
  }});
}

EXPORT int sim_live(uint64_t address, size_t bytes, const char *what) {
  std::string why;
  if (live_range(address, bytes, &why)) return 1;
  complain(ILLEGAL_ADDRESS, "%s: %s", what, why.c_str());
  return 0;
}

EXPORT int sim_complain(int status, const char *text) { return complain(status, "%s", text); }
