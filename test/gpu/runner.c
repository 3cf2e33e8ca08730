// Replays what recorder.ts wrote down, through the CUDA driver alone: a program so plain that every debugging
// tool manages it. Links nothing but the loader.
//   runner FOLDER [OUTPUT]      all that the script reads goes to OUTPUT; exit code 1 if a float in it is not
//                               finite, 2 for a bad call or script, 3 for a failed driver call
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long u64;
typedef struct {
  void *function;
  unsigned blocks, threads, shared;
  void **slots;
} Launch;
typedef struct {
  long count;
  Launch *launches;
} Program;

enum { MOST = 4096, IMAGES = 8 };
static u64 regions[MOST];
static Program programs[MOST];
static void *images[IMAGES];
static long image_count;
static const char *folder;

static int (*Init)(unsigned), (*DeviceGet)(int *, int), (*Retain)(void **, int), (*SetCurrent)(void *);
static int (*Alloc)(u64 *, size_t), (*Set)(u64, unsigned char, size_t);
static int (*ToDevice)(u64, const void *, size_t), (*ToHost)(void *, u64, size_t);
static int (*Load)(void **, const void *), (*Synchronize)(void);
static int (*Function)(void **, void *, const char *), (*Attribute)(void *, int, int);
static int (*Start)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *,
                    void **, void **);
static int (*ErrorName)(int, const char **);

static void end(int code, const char *what, const char *word) {
  fprintf(stderr, "runner: %s: %s\n", what, word);
  exit(code);
}

static void check(int status, const char *call) {
  const char *name = "unknown error";
  if (!status) return;
  ErrorName(status, &name);
  end(3, call, name);
}

static void bind(void) {
  char path[4096] = "libcuda.so.1";
  const char *chosen = getenv("MICRODIFF_CUDA_PATH");
  if (chosen) snprintf(path, sizeof path, "%.*s/libcuda.so.1", (int)strcspn(chosen, ":"), chosen);
  void *library = dlopen(path, RTLD_NOW);
  if (!library && !(library = dlopen("libcuda.so.1", RTLD_NOW))) end(3, path, dlerror());
  const struct {
    const char *name;
    void *to;
  } calls[] = {{"cuInit", &Init}, {"cuDeviceGet", &DeviceGet}, {"cuDevicePrimaryCtxRetain", &Retain},
               {"cuCtxSetCurrent", &SetCurrent}, {"cuMemAlloc_v2", &Alloc}, {"cuMemsetD8_v2", &Set},
               {"cuMemcpyHtoD_v2", &ToDevice}, {"cuMemcpyDtoH_v2", &ToHost}, {"cuModuleLoadData", &Load},
               {"cuCtxSynchronize", &Synchronize}, {"cuModuleGetFunction", &Function},
               {"cuFuncSetAttribute", &Attribute}, {"cuLaunchKernel", &Start},
               {"cuGetErrorName", &ErrorName}};
  for (size_t i = 0; i < sizeof calls / sizeof *calls; ++i) {
    void *found = dlsym(library, calls[i].name);
    if (!found) end(3, "libcuda has no", calls[i].name);
    memcpy(calls[i].to, &found, sizeof found);
  }
}

// A whole file, with a zero behind it.
static char *contents(const char *name) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *file = fopen(path, "rb");
  if (!file) end(2, "cannot open", path);
  fseek(file, 0, SEEK_END);
  const long size = ftell(file);
  char *bytes = calloc(1, (size_t)size + 1);
  rewind(file);
  if (!bytes || fread(bytes, 1, (size_t)size, file) != (size_t)size) end(2, "cannot read", path);
  fclose(file);
  return bytes;
}

static void *function_of(const char *name) {
  void *found;
  for (long i = 0; i < image_count; ++i)
    if (!Function(&found, images[i], name)) return found;
  end(2, "no image has the kernel", name);
  return 0;
}

// The next word of the script.
static const char *word(void) {
  const char *next = strtok(0, " \n");
  if (!next) end(2, "script", "ends too early");
  return next;
}
static long number(void) { return atol(word()); }
static long index_below(long limit) {
  const long n = number();
  if (n < 0 || n >= limit) end(2, "script", "a number is out of its range");
  return n;
}

static void read_program(void) {
  Program *p = programs + index_below(MOST);
  p->count = number();
  p->launches = calloc((size_t)p->count + 1, sizeof(Launch));
  for (long i = 0; i < p->count; ++i) {
    Launch *l = p->launches + i;
    word();  // "launch"
    l->function = function_of(word());
    l->blocks = (unsigned)number(), l->threads = (unsigned)number(), l->shared = (unsigned)number();
    const long slots = number();
    l->slots = calloc((size_t)slots + 1, 8);
    for (long s = 0; s < slots; ++s) {
      const char kind = *word();
      u64 value;
      if (kind == 'p') {
        const char *id = word();
        const u64 offset = (u64)number();
        value = *id == '-' ? 0 : regions[atol(id) % MOST] + offset;
      } else {
        value = kind == 'd' ? strtoull(word(), 0, 10) : (u64)strtoll(word(), 0, 10);
      }
      memcpy(l->slots + s, &value, 8);
    }
    // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    if (l->shared > 48 * 1024) check(Attribute(l->function, 8, (int)l->shared), "cuFuncSetAttribute");
  }
}

static void run_program(const Program *p) {
  for (long i = 0; i < p->count; ++i) {
    const Launch *l = p->launches + i;
    void *parameters[1] = {l->slots};
    const int status = Start(l->function, l->blocks, 1, 1, l->threads, 1, 1, l->shared, 0, parameters, 0);
    check(status, "cuLaunchKernel");
  }
}

int main(int count, char **arguments) {
  if (count < 2) end(2, "usage", "runner FOLDER [OUTPUT]");
  folder = arguments[1];
  FILE *out = count > 2 ? fopen(arguments[2], "wb") : 0;
  bind();
  int device;
  void *context;
  check(Init(0), "cuInit");
  check(DeviceGet(&device, 0), "cuDeviceGet");
  check(Retain(&context, device), "cuDevicePrimaryCtxRetain");
  check(SetCurrent(context), "cuCtxSetCurrent");
  char *script = contents("script"), *data = contents("data");
  long launches = 0, floats = 0, broken = 0;
  for (const char *verb = strtok(script, " \n"); verb; verb = strtok(0, " \n")) {
    if (!strcmp(verb, "image")) {
      char *bytes = contents(word());
      if (image_count == IMAGES) end(2, "script", "has too many images");
      check(Load(images + image_count++, bytes), "cuModuleLoadData");
      free(bytes);
    } else if (!strcmp(verb, "region")) {
      u64 *region = regions + index_below(MOST);
      const size_t bytes = (size_t)number();
      check(Alloc(region, bytes), "cuMemAlloc");
      check(Set(*region, 0, bytes), "cuMemsetD8");
    } else if (!strcmp(verb, "write")) {
      const u64 to = regions[index_below(MOST)] + (u64)number();
      const size_t bytes = (size_t)number();
      check(ToDevice(to, data + number(), bytes), "cuMemcpyHtoD");
    } else if (!strcmp(verb, "fill")) {
      const u64 to = regions[index_below(MOST)] + (u64)number();
      const size_t bytes = (size_t)number();
      check(Set(to, (unsigned char)number(), bytes), "cuMemsetD8");
    } else if (!strcmp(verb, "program")) {
      read_program();
    } else if (!strcmp(verb, "run")) {
      const Program *p = programs + index_below(MOST);
      run_program(p);
      launches += p->count;
    } else if (!strcmp(verb, "read")) {
      const u64 from = regions[index_below(MOST)] + (u64)number();
      const size_t bytes = (size_t)number();
      float *host = malloc(bytes + 4);
      check(Synchronize(), "cuCtxSynchronize");
      check(ToHost(host, from, bytes), "cuMemcpyDtoH");
      for (size_t i = 0; i < bytes / 4; ++i) broken += !isfinite(host[i]);
      floats += (long)(bytes / 4);
      if (out) fwrite(host, 1, bytes, out);
      free(host);
    } else {
      end(2, "script has an unknown verb", verb);
    }
  }
  check(Synchronize(), "cuCtxSynchronize");
  if (out) fclose(out);
  printf("%ld launches, %ld floats read, %ld of them not finite\n", launches, floats, broken);
  return broken > 0;
}
