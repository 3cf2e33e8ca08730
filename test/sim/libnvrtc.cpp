// A stand-in for libnvrtc: a "compilation" gives the image text of the stand-in driver, for the mode that the
// options name. With the stand-in driver, which refuses real GPU code, the program's own way to kernels that
// are compiled on the spot leads here. Test source only.
//
// It refuses a source without kernels and options without a target. SIM_NVRTC=fail: the compilation fails,
// with a log.
#include <stdlib.h>
#include <string.h>

#include <set>
#include <string>

#include "stand-in.h"

namespace {

enum Result : int {
  OK = 0,
  INVALID_INPUT = 3,
  INVALID_PROGRAM = 4,
  INVALID_OPTION = 5,
  COMPILATION_FAILED = 6,
};

struct Program {
  std::string source, log, image;
};
std::set<Program *> programs;

int fail(Program &program, const std::string &words) {
  program.log = words;
  return COMPILATION_FAILED;
}

}  // namespace

EXPORT int nvrtcVersion(int *major, int *minor) {
  if (!major || !minor) return INVALID_INPUT;
  *major = 13;
  *minor = 99;  // no release: what it makes must not be taken for a real compiler's
  return OK;
}

EXPORT const char *nvrtcGetErrorString(int status) {
  switch (status) {
    case 0: return "NVRTC_SUCCESS";
    case 3: return "NVRTC_ERROR_INVALID_INPUT";
    case 4: return "NVRTC_ERROR_INVALID_PROGRAM";
    case 5: return "NVRTC_ERROR_INVALID_OPTION";
    case 6: return "NVRTC_ERROR_COMPILATION";
    default: return "NVRTC_ERROR unknown";
  }
}

EXPORT int nvrtcGetNumSupportedArchs(int *out) {
  if (!out) return INVALID_INPUT;
  *out = 4;
  return OK;
}
EXPORT int nvrtcGetSupportedArchs(int *out) {
  if (!out) return INVALID_INPUT;
  const int all[] = {80, 90, 100, 120};
  memcpy(out, all, sizeof all);
  return OK;
}

EXPORT int nvrtcCreateProgram(Program **out, const char *source, const char *, int count,
                              const char *const *headers, const char *const *names) {
  if (!out || !source || count < 0 || (count && (!headers || !names))) return INVALID_INPUT;
  auto *program = new Program{source, "", ""};
  programs.insert(program);
  *out = program;
  return OK;
}
EXPORT int nvrtcDestroyProgram(Program **program) {
  if (!program || !programs.erase(*program)) return INVALID_PROGRAM;
  delete *program;
  *program = nullptr;
  return OK;
}

EXPORT int nvrtcCompileProgram(Program *program, int count, const char *const *options) {
  if (!programs.count(program)) return INVALID_PROGRAM;
  bool target = false, is_float = false, exact = false;
  for (int i = 0; i < count; ++i) {
    const std::string option = options[i];
    if (option.empty() || option[0] != '-') return INVALID_OPTION;
    target |= option.find("--gpu-architecture=") == 0 || option.find("-arch=") == 0;
    is_float |= option == "-DACT_IS_FLOAT";
    exact |= option == "-fmad=false" || option == "--fmad=false";
  }
  if (!target) return fail(*program, "error: no target among the options");
  const char *asked = getenv("SIM_NVRTC");
  if (asked && !strcmp(asked, "fail")) return fail(*program, "kernels.cu(1): error: asked to fail");
  if (program->source.find("KERNEL(") == std::string::npos &&
      program->source.find("__global__") == std::string::npos)
    return fail(*program, "error: the source holds no kernel");
  program->image = std::string("sim ") + (is_float ? "f32" : "bf16") + (exact ? " exact" : "");
  return OK;
}

EXPORT int nvrtcGetProgramLogSize(Program *program, size_t *out) {
  if (!programs.count(program) || !out) return INVALID_PROGRAM;
  *out = program->log.size() + 1;
  return OK;
}
EXPORT int nvrtcGetProgramLog(Program *program, char *out) {
  if (!programs.count(program) || !out) return INVALID_PROGRAM;
  memcpy(out, program->log.c_str(), program->log.size() + 1);
  return OK;
}

static int size_of(Program *program, size_t *out) {
  if (!programs.count(program) || !out) return INVALID_PROGRAM;
  *out = program->image.size() + 1;
  return OK;
}
static int copy(Program *program, char *out) {
  if (!programs.count(program) || !out) return INVALID_PROGRAM;
  memcpy(out, program->image.c_str(), program->image.size() + 1);
  return OK;
}
EXPORT int nvrtcGetPTXSize(Program *program, size_t *out) { return size_of(program, out); }
EXPORT int nvrtcGetPTX(Program *program, char *out) { return copy(program, out); }
EXPORT int nvrtcGetCUBINSize(Program *program, size_t *out) { return size_of(program, out); }
EXPORT int nvrtcGetCUBIN(Program *program, char *out) { return copy(program, out); }
