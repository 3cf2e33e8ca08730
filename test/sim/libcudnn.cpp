// A stand-in for libcudnn: forward convolutions of the graph interface, queued on a stream of the stand-in
// driver, so that they are captured and replayed like kernels. Test source only.
//
// Stricter than the library: an attribute must be known for its kind, of the right type and number; what is
// referred to must be finalized and live; what others refer to cannot be destroyed; nothing is made inside a
// capture. Addresses must be as aligned as their tensors say, the workspace large enough and live.
//   SIM_CUDNN_VERSION   what cudnnGetVersion says (90800)
//   SIM_CUDNN_REFUSE    engines whose plans do not finalize, as "1,0"; "all"; or "create": no handle is made
#include <stdio.h>
#include <stdlib.h>

#include <algorithm>

#include "cudnn-types.h"
#include "stand-in.h"

EXPORT int cuStreamIsCapturing(void *stream, int *out);

#define ENTER() \
  if (int status = sim_gate(__func__)) return status

namespace {

struct Handle {
  void *stream = nullptr;
};
std::set<Handle *> handles;
std::set<Descriptor *> descriptors;
std::string last_words;

int refuse(int status, const std::string &words) {
  last_words = words;
  sim_complain(0, ("cudnn: " + words).c_str());
  return status;
}

// A refusal that a program has to reckon with: no complaint.
int decline(int status, const std::string &words) {
  last_words = words;
  return status;
}

bool alive(const Descriptor *d) { return descriptors.count(const_cast<Descriptor *>(d)) > 0; }

bool refused(int engine) {
  const std::string list = std::string(sim_setting("SIM_CUDNN_REFUSE")) + ",";
  return list == "all," || ("," + list).find("," + std::to_string(engine) + ",") != std::string::npos;
}

// Making things asks for memory and heuristics: not while a graph is recorded.
bool capturing() {
  for (const Handle *handle : handles) {
    int state = 0;
    if (handle->stream && cuStreamIsCapturing(handle->stream, &state) == 0 && state != 0) return true;
  }
  return false;
}

void refer(Descriptor *from, Descriptor *to) {
  from->uses.push_back(to);
  ++to->users;
}

// ---- what one convolution is -----------------------------------------------------------------------------

struct Shape {
  int64_t n, c, h, w;
};
Shape shape_of(const Descriptor *t) {
  return {t->number(902, 0), t->number(902, 1), t->number(902, 2), t->number(902, 3)};
}
size_t element_bytes(const Descriptor *t) { return t->number(901) == BF16 ? 2 : 4; }
size_t span_of(const Descriptor *t) {
  const Shape s = shape_of(t);
  return size_t(s.n * s.c * s.h * s.w) * element_bytes(t);
}

const Descriptor *operation_of(const Descriptor *graph) { return graph->descriptor(801); }

// Channels beside each other, pixels without gaps.
bool channels_last(const Descriptor *t) {
  const Shape s = shape_of(t);
  const int64_t wanted[4] = {s.h * s.w * s.c, 1, s.w * s.c, s.c};
  for (int i = 0; i < 4; ++i)
    if (t->number(903, i) != wanted[i]) return false;
  return true;
}

std::vector<const Engine *> proposals(const Descriptor *graph, int mode) {
  const Descriptor *operation = operation_of(graph), *x = operation->descriptor(704);
  bool tensor = shape_of(x).c % 8 == 0 && shape_of(operation->descriptor(705)).c % 8 == 0;
  for (int t : {703, 704, 705}) tensor &= operation->descriptor(t)->number(900) >= 16;
  std::vector<const Engine *> found;
  for (const Engine &engine : ENGINES)
    if ((mode == MODE_A ? engine.in_a : engine.in_fallback) && (tensor || !engine.tensor))
      found.push_back(&engine);
  return found;
}

const Engine *engine_of(int index) {
  for (const Engine &engine : ENGINES)
    if (engine.index == index) return &engine;
  return nullptr;
}

// ---- finalizing ------------------------------------------------------------------------------------------

int finalize_tensor(Descriptor *t) {
  const auto &dimensions = t->values[902], &strides = t->values[903];
  if (dimensions.size() != strides.size()) return refuse(BAD_PARAM, "a tensor's dimensions and strides");
  if (dimensions.size() != 4) return decline(NOT_SUPPORTED_SHAPE, "only tensors of four dimensions");
  for (size_t i = 0; i < 4; ++i)
    if ((int64_t)dimensions[i] < 1 || (int64_t)strides[i] < 1) return refuse(BAD_PARAM, "an empty tensor");
  const int64_t type = t->number(901), align = t->number(900);
  if (type != F32 && type != BF16) return refuse(BAD_PARAM, "data type of a tensor");
  if (align < (int64_t)element_bytes(t) || (align & (align - 1))) return refuse(BAD_PARAM, "byte alignment");
  return OK;
}

int finalize_forward(Descriptor *o) {
  const Descriptor *window = o->descriptor(702), *w = o->descriptor(703), *x = o->descriptor(704),
                   *y = o->descriptor(705);
  if (o->real(700) != 1 || o->real(701) != 0) return refuse(NOT_SUPPORTED, "alpha is not 1, or beta not 0");
  if (x->number(901) != w->number(901) || x->number(901) != y->number(901))
    return refuse(NOT_SUPPORTED, "tensors of different types");
  std::set<int64_t> ids{x->number(906), w->number(906), y->number(906)};
  if (ids.size() != 3) return refuse(BAD_PARAM, "two tensors have one id");
  const Shape in = shape_of(x), by = shape_of(w), out = shape_of(y);
  if (in.c != by.c || by.n != out.c || in.n != out.n) return refuse(BAD_PARAM, "channels or images differ");
  for (int i = 0; i < 2; ++i) {
    const int64_t extent = i ? in.w : in.h, k = i ? by.w : by.h, got = i ? out.w : out.h;
    const int64_t stride = window->number(103, i), reach = (k - 1) * window->number(102, i) + 1;
    const int64_t padded = extent + window->number(104, i) + window->number(105, i);
    if (padded < reach || (padded - reach) / stride + 1 != got)
      return refuse(BAD_PARAM, "extent of the result");
  }
  return OK;
}

int finalize_graph(Descriptor *g) {
  if (!handles.count((Handle *)g->values[800][0])) return refuse(NOT_INITIALIZED, "graph of a dead handle");
  const Descriptor *operation = operation_of(g), *window = operation->descriptor(702);
  for (int t : {703, 704, 705})
    if (!channels_last(operation->descriptor(t))) return refuse(NOT_SUPPORTED_LAYOUT, "layout of a tensor");
  for (int i = 0; i < 2; ++i) {
    if (window->number(104, i) != window->number(105, i))
      return refuse(NOT_SUPPORTED, "padding differs before and after");
    if (window->number(102, i) != 1) return decline(NOT_SUPPORTED, "dilated windows");
  }
  return OK;
}

int finalize_plan(Descriptor *p) {
  Descriptor *config = p->descriptor(401);
  if (!handles.count((Handle *)p->values[400][0])) return refuse(NOT_INITIALIZED, "plan of a dead handle");
  const Engine *engine = engine_of(config->engine);
  if (!engine->finalizes || refused(engine->index))
    return decline(NOT_SUPPORTED, "engine " + std::to_string(engine->index) + " is not supported here");
  p->engine = config->engine;
  p->graph = config->graph;
  p->workspace = engine->fixed_workspace;
  return OK;
}

int finalize(Descriptor *d) {
  for (const Rule &rule : RULES)
    if (rule.kind == d->kind && !d->has(rule.attribute))
      return refuse(BAD_PARAM, "attribute " + std::to_string(rule.attribute) + " is not set");
  switch (d->kind) {
    case TENSOR: return finalize_tensor(d);
    case CONVOLUTION:
      if (d->number(100) != F32 || d->number(101) != 1 || d->number(106) != 2)
        return refuse(NOT_SUPPORTED, "compute type, mode or dimensions of a convolution");
      for (int a : {102, 103})
        if (d->number(a, 0) < 1 || d->number(a, 1) < 1) return refuse(BAD_PARAM, "dilation or stride");
      for (int a : {104, 105})
        if (d->number(a, 0) < 0 || d->number(a, 1) < 0) return refuse(BAD_PARAM, "padding");
      return OK;
    case CONVOLUTION_FORWARD: return finalize_forward(d);
    case GRAPH: return finalize_graph(d);
    case HEURISTICS:
      if (d->number(200) != MODE_A && d->number(200) != MODE_FALLBACK)
        return refuse(NOT_SUPPORTED, "heuristic mode");
      return OK;
    case PLAN: return finalize_plan(d);
    case VARIANT_PACK: {
      auto ids = d->values[1000];
      std::sort(ids.begin(), ids.end());
      if (ids.size() != d->values[1001].size() || std::unique(ids.begin(), ids.end()) != ids.end())
        return refuse(BAD_PARAM, "ids and addresses of a variant pack");
      return OK;
    }
    default: return refuse(BAD_DESCRIPTOR_TYPE, "such a descriptor is read, not finalized");
  }
}

// ---- the arithmetic --------------------------------------------------------------------------------------

float bf16_value(uint16_t bits) {
  uint32_t wide = uint32_t(bits) << 16;
  float value;
  memcpy(&value, &wide, 4);
  return value;
}
uint16_t bf16_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return uint16_t(bits >> 16 | 0x40u);
  return uint16_t((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

struct Job {
  Shape in, by, out;
  int64_t stride[2], pad[2];
  uint64_t x, w, y, workspace, workspace_bytes;
  bool half, coarse;  // coarse: inputs are rounded to bf16 first, as engines with tensor cores do, and worse
};

std::vector<float> floats(uint64_t at, int64_t count, const Job &job) {
  std::vector<float> all(count);
  for (int64_t i = 0; i < count; ++i) {
    all[i] = job.half ? bf16_value(((const uint16_t *)at)[i]) : ((const float *)at)[i];
    if (job.coarse) all[i] = bf16_value(bf16_bits(all[i]));
  }
  return all;
}

int run(void *data) {
  const Job &job = *(const Job *)data;
  const int ILLEGAL_ADDRESS = 700;
  const size_t size = job.half ? 2 : 4;
  auto count = [](const Shape &s) { return s.n * s.c * s.h * s.w; };
  if (!sim_live(job.x, count(job.in) * size, "cudnnBackendExecute: x") ||
      !sim_live(job.w, count(job.by) * size, "cudnnBackendExecute: w") ||
      !sim_live(job.y, count(job.out) * size, "cudnnBackendExecute: y") ||
      !sim_live(job.workspace, job.workspace_bytes, "cudnnBackendExecute: workspace"))
    return ILLEGAL_ADDRESS;
  memset((void *)job.workspace, 0xFF, job.workspace_bytes);
  const auto x = floats(job.x, count(job.in), job), w = floats(job.w, count(job.by), job);
  const int64_t C = job.in.c, Co = job.out.c, taps = job.by.h * job.by.w;
  // Windows with the output channels innermost, for the loop over them.
  std::vector<float> turned(w.size());
  for (int64_t o = 0; o < Co; ++o)
    for (int64_t i = 0; i < taps * C; ++i) turned[i * Co + o] = w[o * taps * C + i];
  std::vector<float> sums(Co);
  for (int64_t pixel = 0; pixel < job.out.n * job.out.h * job.out.w; ++pixel) {
    const int64_t n = pixel / (job.out.h * job.out.w), row = pixel / job.out.w % job.out.h;
    const int64_t top = row * job.stride[0] - job.pad[0];
    const int64_t left = pixel % job.out.w * job.stride[1] - job.pad[1];
    std::fill(sums.begin(), sums.end(), 0.0f);
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t v = top + tap / job.by.w, u = left + tap % job.by.w;
      if (v < 0 || v >= job.in.h || u < 0 || u >= job.in.w) continue;
      const float *from = &x[((n * job.in.h + v) * job.in.w + u) * C];
      for (int64_t c = 0; c < C; ++c) {
        const float value = from[c], *by = &turned[(tap * C + c) * Co];
        for (int64_t o = 0; o < Co; ++o) sums[o] += value * by[o];
      }
    }
    for (int64_t o = 0; o < Co; ++o) {
      if (job.half) ((uint16_t *)job.y)[pixel * Co + o] = bf16_bits(sums[o]);
      else ((float *)job.y)[pixel * Co + o] = sums[o];
    }
  }
  return 0;
}

}  // namespace

// ---- entry points ----------------------------------------------------------------------------------------

EXPORT size_t cudnnGetVersion() {
  const char *version = sim_setting("SIM_CUDNN_VERSION");
  return *version ? strtoul(version, nullptr, 10) : 90800;
}

EXPORT const char *cudnnGetErrorString(int status) {
  switch (status) {
    case OK: return "CUDNN_STATUS_SUCCESS";
    case NOT_INITIALIZED: return "CUDNN_STATUS_NOT_INITIALIZED";
    case BAD_PARAM: return "CUDNN_STATUS_BAD_PARAM";
    case BAD_NULL_POINTER: return "CUDNN_STATUS_BAD_PARAM_NULL_POINTER";
    case BAD_ATTRIBUTE_TYPE: return "CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE";
    case BAD_DESCRIPTOR_TYPE: return "CUDNN_STATUS_BAD_PARAM_DESCRIPTOR_TYPE";
    case NOT_SUPPORTED: return "CUDNN_STATUS_NOT_SUPPORTED";
    case NOT_SUPPORTED_SHAPE: return "CUDNN_STATUS_NOT_SUPPORTED_SHAPE";
    case NOT_SUPPORTED_LAYOUT: return "CUDNN_STATUS_NOT_SUPPORTED_LAYOUT";
    case EXECUTION_FAILED: return "CUDNN_STATUS_EXECUTION_FAILED";
    default: return "CUDNN_UNKNOWN_STATUS";
  }
}

// As the library: the words of the last refusal, once.
EXPORT void cudnnGetLastErrorString(char *to, size_t bytes) {
  if (!to || bytes == 0) return;
  snprintf(to, bytes, "%s", last_words.c_str());
  last_words.clear();
}

EXPORT int cudnnCreate(Handle **out) {
  ENTER();
  if (!out) return BAD_NULL_POINTER;
  if (!strcmp(sim_setting("SIM_CUDNN_REFUSE"), "create")) return decline(NOT_INITIALIZED, "no sub-libraries");
  handles.insert(*out = new Handle);
  return OK;
}
EXPORT int cudnnDestroy(Handle *handle) {
  ENTER();
  if (!handles.erase(handle)) return refuse(BAD_PARAM, "destroyed handle");
  for (const Descriptor *d : descriptors)
    if (d->kind == GRAPH && d->values.at(800)[0] == (uint64_t)handle)
      return refuse(BAD_PARAM, "a handle that a graph still uses");
  delete handle;
  return OK;
}
EXPORT int cudnnSetStream(Handle *handle, void *stream) {
  ENTER();
  if (!handles.count(handle)) return refuse(NOT_INITIALIZED, "stream of a dead handle");
  int state = 0;
  if (stream && cuStreamIsCapturing(stream, &state)) return refuse(BAD_PARAM, "not a stream of this context");
  handle->stream = stream;
  return OK;
}

EXPORT int cudnnBackendCreateDescriptor(int kind, Descriptor **out) {
  ENTER();
  if (!out) return BAD_NULL_POINTER;
  if (capturing()) return refuse(NOT_SUPPORTED, "a descriptor is made inside a capture");
  bool known = kind == ENGINE || kind == ENGINE_CONFIG;
  for (const Rule &rule : RULES) known |= rule.kind == kind;
  if (!known) return refuse(NOT_SUPPORTED, "kind " + std::to_string(kind));
  *out = new Descriptor(kind);
  descriptors.insert(*out);
  return OK;
}

EXPORT int cudnnBackendDestroyDescriptor(Descriptor *d) {
  ENTER();
  if (!alive(d)) return refuse(BAD_PARAM, "destroyed descriptor");
  if (d->users > 0) return refuse(BAD_PARAM, "a descriptor that others refer to is destroyed");
  for (Descriptor *used : d->uses) --used->users;
  descriptors.erase(d);
  delete d;
  return OK;
}

EXPORT int cudnnBackendSetAttribute(Descriptor *d, int attribute, int type, int64_t count, const void *from) {
  ENTER();
  const std::string name = "attribute " + std::to_string(attribute);
  if (!alive(d)) return refuse(BAD_PARAM, name + " of a dead descriptor");
  if (d->finalized) return refuse(BAD_PARAM, name + " of a finalized descriptor");
  const Rule *rule = nullptr;
  for (const Rule &each : RULES)
    if (each.kind == d->kind && each.attribute == attribute) rule = &each;
  if (!rule) return refuse(NOT_SUPPORTED, name + " is not one of kind " + std::to_string(d->kind));
  if (rule->type != type) return refuse(BAD_ATTRIBUTE_TYPE, name + " is of another type");
  if (count < rule->least || count > rule->most) return refuse(BAD_PARAM, name + ": number of elements");
  if (!from) return refuse(BAD_NULL_POINTER, name + " from nowhere");
  if (d->has(attribute)) return refuse(BAD_PARAM, name + " is set twice");
  std::vector<uint64_t> values(count);
  for (int64_t i = 0; i < count; ++i) {
    if (type_bytes(type) == 8) values[i] = ((const uint64_t *)from)[i];
    else values[i] = ((const uint32_t *)from)[i];
    if (type != T_DESCRIPTOR) continue;
    Descriptor *to = (Descriptor *)values[i];
    if (!alive(to) || !to->finalized) return refuse(BAD_PARAM, name + " is not finalized, or dead");
    if (to->kind != rule->of) return refuse(BAD_DESCRIPTOR_TYPE, name + " is of another kind");
    refer(d, to);
  }
  d->values[attribute] = values;
  return OK;
}

EXPORT int cudnnBackendFinalize(Descriptor *d) {
  ENTER();
  if (!alive(d)) return refuse(BAD_PARAM, "a dead descriptor is finalized");
  if (d->finalized) return refuse(BAD_PARAM, "a descriptor is finalized twice");
  if (capturing()) return refuse(NOT_SUPPORTED, "a descriptor is finalized inside a capture");
  const int status = finalize(d);
  d->finalized = status == OK;
  return status;
}

EXPORT int cudnnBackendGetAttribute(Descriptor *d, int attribute, int type, int64_t wanted, int64_t *count,
                                    void *to) {
  ENTER();
  const std::string name = "attribute " + std::to_string(attribute);
  if (!alive(d) || !d->finalized) return refuse(BAD_PARAM, name + " of a descriptor that is not finalized");
  if (wanted < 0 || !count || (wanted > 0 && !to)) return refuse(BAD_NULL_POINTER, name + " to nowhere");
  auto typed = [&](int as) { return type == as; };
  if (d->kind == PLAN && attribute == 402 && typed(T_INT64)) {
    *count = 1;
    if (wanted > 0) *(int64_t *)to = (int64_t)d->workspace;
    return OK;
  }
  if (d->kind == ENGINE && attribute == 1303 && typed(T_NUMERICAL_NOTE)) {
    const auto &notes = engine_of(d->engine)->notes;
    *count = (int64_t)notes.size();
    for (int64_t i = 0; i < std::min(wanted, *count); ++i) ((int *)to)[i] = notes[i];
    return OK;
  }
  const bool results = d->kind == HEURISTICS && attribute == 202 && typed(T_DESCRIPTOR);
  const bool engine = d->kind == ENGINE_CONFIG && attribute == 300 && typed(T_DESCRIPTOR);
  if (!results && !engine) return refuse(NOT_SUPPORTED, name + " cannot be read, or not as this type");
  Descriptor *graph = results ? d->descriptor(201) : d->graph;
  std::vector<const Engine *> found;
  if (results) found = proposals(graph, (int)d->number(200));
  else found.push_back(engine_of(d->engine));
  *count = wanted == 0 ? (int64_t)found.size() : std::min(wanted, (int64_t)found.size());
  for (int64_t i = 0; i < std::min(wanted, *count); ++i) {
    Descriptor *holder = ((Descriptor **)to)[i];
    if (!alive(holder) || holder->finalized || holder->kind != (results ? ENGINE_CONFIG : ENGINE))
      return refuse(BAD_PARAM, name + " into a descriptor that is not an empty one of its kind");
    holder->finalized = true;
    holder->engine = found[i]->index;
    holder->graph = graph;
    refer(holder, graph);
  }
  return OK;
}

EXPORT int cudnnBackendExecute(Handle *handle, Descriptor *plan, Descriptor *pack) {
  ENTER();
  if (!handles.count(handle)) return refuse(NOT_INITIALIZED, "execution with a dead handle");
  if (!alive(plan) || !plan->finalized || plan->kind != PLAN) return refuse(BAD_PARAM, "not a plan");
  if (!alive(pack) || !pack->finalized || pack->kind != VARIANT_PACK)
    return refuse(BAD_PARAM, "not a variant pack");
  if ((Handle *)plan->values[400][0] != handle) return refuse(BAD_PARAM, "a plan of another handle");
  const Descriptor *operation = operation_of(plan->graph), *window = operation->descriptor(702);
  const Descriptor *tensors[3] = {operation->descriptor(704), operation->descriptor(703),
                                  operation->descriptor(705)};
  Job job;
  memset((void *)&job, 0, sizeof job);
  uint64_t *places[3] = {&job.x, &job.w, &job.y};
  if (pack->values[1000].size() != 3) return refuse(BAD_PARAM, "a variant pack has other tensors");
  for (int t = 0; t < 3; ++t) {
    for (int i = 0; i < 3; ++i)
      if (pack->number(1000, i) == tensors[t]->number(906)) *places[t] = pack->values[1001][i];
    if (!*places[t]) return refuse(BAD_PARAM, "a tensor has no address");
    if (*places[t] % (uint64_t)tensors[t]->number(900))
      return refuse(BAD_PARAM, "an address is less aligned");
  }
  const uint64_t end = job.y + span_of(tensors[2]);
  for (int t = 0; t < 2; ++t)
    if (*places[t] < end && job.y < *places[t] + span_of(tensors[t]))
      return refuse(BAD_PARAM, "y lies over x or w");
  job.workspace = pack->values[1003][0];
  job.workspace_bytes = plan->workspace;
  if (job.workspace_bytes && (!job.workspace || job.workspace % 16))
    return refuse(BAD_PARAM, "no workspace, or not aligned to 16 bytes");
  job.in = shape_of(tensors[0]), job.by = shape_of(tensors[1]), job.out = shape_of(tensors[2]);
  for (int i = 0; i < 2; ++i) job.stride[i] = window->number(103, i), job.pad[i] = window->number(105, i);
  job.half = tensors[0]->number(901) == BF16;
  job.coarse = engine_of(plan->engine)->notes.size() > 0;
  return sim_enqueue(handle->stream, "cudnnBackendExecute", run, &job, sizeof job) ? EXECUTION_FAILED : OK;
}
