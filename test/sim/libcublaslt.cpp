// A stand-in for libcublasLt: descriptors, heuristics and products C = alpha op(A) op(B) + beta C, queued on
// a stream of the stand-in driver, so that they are captured and replayed like kernels. Test source only.
//
// It refuses what the library refuses: shapes that do not fit, leading dimensions too small, kinds without
// an algorithm, alignments short of what the asked algorithm needs, workspaces too small; and what the
// library cannot see: D over A or B, memory that is not live. Each algorithm rounds in its own way.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <string>
#include <vector>

#include "cublaslt-types.h"
#include "stand-in.h"

#define ENTER() \
  if (int status = sim_gate(__func__)) return status

namespace {

Alive<int> handles;
Alive<Layout> layouts;
Alive<Operation> operations;
Alive<Preference> preferences;

int refuse(int status, const char *words) {
  std::string text = std::string("cublasLt: ") + words;
  sim_complain(0, text.c_str());
  return status;
}

// ---- what one product is ---------------------------------------------------------------------------------

struct Product {
  Operation operation;
  Layout a, b, c, d;
  uint64_t A, B, C, D, workspace, alpha_at, beta_at;
  float alpha, beta;
  uint64_t way, workspace_bytes;

  uint64_t M() const { return d.rows; }
  uint64_t N() const { return d.cols; }
  uint64_t K() const { return operation.trans_a ? a.rows : a.cols; }
};

int check_layout(const Layout &layout) {
  if (layout.type != R_32F && layout.type != R_16BF) return refuse(BLAS_NOT_SUPPORTED, "type of a matrix");
  if (layout.rows < 1 || layout.cols < 1) return refuse(BLAS_INVALID_VALUE, "an empty matrix");
  if (layout.order != COL && layout.order != ROW) return refuse(BLAS_NOT_SUPPORTED, "order of a matrix");
  if (layout.ld < (int64_t)layout.minor()) return refuse(BLAS_INVALID_VALUE, "leading dimension too small");
  if (layout.batch < 1) return refuse(BLAS_INVALID_VALUE, "batch count");
  return BLAS_OK;
}

int check(const Product &p) {
  for (const Layout *layout : {&p.a, &p.b, &p.c, &p.d})
    if (int status = check_layout(*layout)) return status;
  const Operation &o = p.operation;
  uint64_t m = o.trans_a ? p.a.cols : p.a.rows, k = o.trans_a ? p.a.rows : p.a.cols;
  uint64_t kb = o.trans_b ? p.b.cols : p.b.rows, n = o.trans_b ? p.b.rows : p.b.cols;
  if (m != p.d.rows || n != p.d.cols || k != kb || p.c.rows != p.d.rows || p.c.cols != p.d.cols)
    return refuse(BLAS_INVALID_VALUE, "shapes of the matrices do not fit");
  if (p.a.batch != p.d.batch || p.b.batch != p.d.batch || p.c.batch != p.d.batch)
    return refuse(BLAS_INVALID_VALUE, "batch counts differ");
  if (p.d.batch > 1 && p.d.stride == 0) return refuse(BLAS_INVALID_VALUE, "all products have one D");
  if (p.a.type != p.b.type || p.c.type != p.d.type) return refuse(BLAS_NOT_SUPPORTED, "pair of types");
  if (p.a.type == R_32F && p.d.type != R_32F) return refuse(BLAS_NOT_SUPPORTED, "fp32 inputs, bf16 output");
  if (p.c.order != p.d.order) return refuse(BLAS_NOT_SUPPORTED, "orders of C and D differ");
  bool known = o.compute == COMPUTE_32F || o.compute == COMPUTE_32F_PEDANTIC ||
               (o.compute == COMPUTE_32F_FAST_TF32 && p.a.type == R_32F);
  if (!known || o.scale != R_32F) return refuse(BLAS_NOT_SUPPORTED, "compute type or scale type");
  if (o.trans_c) return refuse(BLAS_NOT_SUPPORTED, "transposed C");
  if (o.epilogue != PLAIN && o.epilogue != BIAS && o.epilogue != GELU && o.epilogue != GELU_BIAS)
    return refuse(BLAS_NOT_SUPPORTED, "epilogue");
  // The bias has the type of D: the library has no kernel for a bf16 bias under an fp32 result.
  if ((o.epilogue & BIAS) && o.bias_type != -1 && o.bias_type != p.d.type)
    return refuse(BLAS_NOT_SUPPORTED, "the bias has not the type of D");
  if ((o.epilogue & BIAS) && p.d.order == ROW) return refuse(BLAS_NOT_SUPPORTED, "bias with rows in order");
  return BLAS_OK;
}

bool multiple(const Layout &layout, size_t bytes) {
  if (uint64_t(layout.ld) * layout.size() % bytes) return false;
  return layout.batch == 1 || uint64_t(layout.stride) * layout.size() % bytes == 0;
}

bool tensor_shape(const Product &p) {
  return multiple(p.a, 16) && multiple(p.b, 16) && multiple(p.c, 16) && multiple(p.d, 16);
}

size_t workspace_of(const Product &p, uint64_t way) {
  if (way != TENSOR_SPLIT) return 0;
  return (p.M() * p.N() * 4 * size_t(p.d.batch) + 255) / 256 * 256;
}

// The algorithms for a product with pointers of these alignments, best first.
std::vector<uint64_t> ways_for(const Product &p, const unsigned align[4], uint64_t workspace) {
  std::vector<uint64_t> ways;
  bool tensor = tensor_shape(p), any = true;
  const Layout *all[4] = {&p.a, &p.b, &p.c, &p.d};
  for (int i = 0; i < 4; ++i) {
    tensor &= align[i] >= 16;
    any &= align[i] >= all[i]->size();
  }
  if (tensor && p.K() >= 64 && workspace_of(p, TENSOR_SPLIT) <= workspace) ways.push_back(TENSOR_SPLIT);
  if (tensor) ways.push_back(TENSOR);
  if (any) ways.push_back(ANY);
  return ways;
}

// Whether two matrices have bytes of one place: they may lie in columns of one larger matrix.
bool overlap(uint64_t X, const Layout &x, uint64_t Y, const Layout &y) {
  if (X >= Y + y.span() || Y >= X + x.span()) return false;
  uint64_t row = uint64_t(x.ld) * x.size();
  if (row != uint64_t(y.ld) * y.size()) return true;
  for (const Layout *one : {&x, &y})
    if (one->batch > 1 && uint64_t(one->stride) * one->size() % row) return true;
  uint64_t offset = ((Y % row) + row - X % row) % row;
  return offset < x.minor() * x.size() || offset + y.minor() * y.size() > row;
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
float tf32(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  if ((bits & 0x7f800000u) != 0x7f800000u) bits = (bits + 0xfffu + (bits >> 13 & 1u)) & ~0x1fffu;
  memcpy(&value, &bits, 4);
  return value;
}

uint64_t at(const Layout &layout, uint64_t row, uint64_t col) {
  return layout.order == COL ? col * uint64_t(layout.ld) + row : row * uint64_t(layout.ld) + col;
}
float get(uint64_t base, const Layout &layout, uint64_t row, uint64_t col) {
  uint64_t i = at(layout, row, col);
  return layout.type == R_32F ? ((const float *)base)[i] : bf16_value(((const uint16_t *)base)[i]);
}

// The matrix (transposed if asked) as floats, rows side by side.
std::vector<float> packed(uint64_t base, const Layout &layout, bool transposed, bool to_tf32) {
  uint64_t rows = transposed ? layout.cols : layout.rows, cols = transposed ? layout.rows : layout.cols;
  std::vector<float> out(rows * cols);
  for (uint64_t i = 0; i < rows; ++i)
    for (uint64_t j = 0; j < cols; ++j) {
      float value = transposed ? get(base, layout, j, i) : get(base, layout, i, j);
      out[i * cols + j] = to_tf32 ? tf32(value) : value;
    }
  return out;
}

template <class T>
void add_products(T *__restrict sums, const float *a, const float *__restrict b, uint64_t n, uint64_t first,
                  uint64_t last) {
  for (uint64_t k = first; k < last; ++k) {
    const T x = a[k];
    for (uint64_t j = 0; j < n; ++j) sums[j] += x * T(b[k * n + j]);
  }
}

// One row of op(A) op(B).
void row_of(uint64_t way, float *out, const float *a, const float *b, uint64_t n, uint64_t depth) {
  memset(out, 0, n * 4);
  if (way == TENSOR) {
    add_products(out, a, b, n, 0, depth);
  } else if (way == TENSOR_SPLIT) {
    std::vector<float> second(n, 0.0f);
    add_products(out, a, b, n, 0, depth / 2);
    add_products(second.data(), a, b, n, depth / 2, depth);
    for (uint64_t j = 0; j < n; ++j) out[j] += second[j];
  } else {
    std::vector<double> sums(n, 0.0);
    add_products(sums.data(), a, b, n, 0, depth);
    for (uint64_t j = 0; j < n; ++j) out[j] = float(sums[j]);
  }
}

float gelu(float x) { return 0.5f * x * (1 + tanhf(0.7978845608f * (x + 0.044715f * x * x * x))); }

int run(void *data) {
  Product p;
  memcpy((void *)&p, data, sizeof p);
  const uint64_t m = p.M(), n = p.N(), depth = p.K();
  const int ILLEGAL_ADDRESS = 700;
  if (p.operation.pointer_mode == 1) {
    if (!sim_live(p.alpha_at, 4, "cublasLtMatmul: alpha") || !sim_live(p.beta_at, 4, "cublasLtMatmul: beta"))
      return ILLEGAL_ADDRESS;
    p.alpha = *(const float *)p.alpha_at;
    p.beta = *(const float *)p.beta_at;
  }
  const bool with_bias = p.operation.epilogue & BIAS, with_gelu = p.operation.epilogue & GELU;
  const size_t bias_bytes = p.d.size() * (m + uint64_t(p.d.batch - 1) * uint64_t(p.operation.bias_stride));
  if (!sim_live(p.A, p.a.span(), "cublasLtMatmul: A") || !sim_live(p.B, p.b.span(), "cublasLtMatmul: B") ||
      (p.beta != 0 && !sim_live(p.C, p.c.span(), "cublasLtMatmul: C")) ||
      !sim_live(p.D, p.d.span(), "cublasLtMatmul: D") ||
      (with_bias && !sim_live(p.operation.bias, bias_bytes, "cublasLtMatmul: bias")))
    return ILLEGAL_ADDRESS;
  if (const size_t used = workspace_of(p, p.way)) {
    if (!sim_live(p.workspace, used, "cublasLtMatmul: workspace")) return ILLEGAL_ADDRESS;
    memset((void *)p.workspace, 0xFF, used);
  }
  const bool to_tf32 = p.operation.compute == COMPUTE_32F_FAST_TF32;
  std::vector<float> row(n);
  for (int batch = 0; batch < p.d.batch; ++batch) {
    auto base = [&](uint64_t first, const Layout &x) {
      return first + uint64_t(batch) * uint64_t(x.stride) * x.size();
    };
    auto a = packed(base(p.A, p.a), p.a, p.operation.trans_a != 0, to_tf32);
    auto b = packed(base(p.B, p.b), p.b, p.operation.trans_b != 0, to_tf32);
    const uint64_t C = base(p.C, p.c), D = base(p.D, p.d);
    const uint64_t bias = p.operation.bias + uint64_t(batch) * p.operation.bias_stride * p.d.size();
    for (uint64_t i = 0; i < m; ++i) {
      row_of(p.way, row.data(), &a[i * depth], b.data(), n, depth);
      float added = 0;
      if (with_bias) added = p.d.type == R_32F ? ((float *)bias)[i] : bf16_value(((uint16_t *)bias)[i]);
      for (uint64_t j = 0; j < n; ++j) {
        float value = p.alpha * row[j];
        if (p.beta != 0) value += p.beta * get(C, p.c, i, j);
        value += added;
        if (with_gelu) value = gelu(value);
        if (p.d.type == R_32F) ((float *)D)[at(p.d, i, j)] = value;
        else ((uint16_t *)D)[at(p.d, i, j)] = bf16_bits(value);
      }
    }
  }
  return 0;
}

// ---- attributes ------------------------------------------------------------------------------------------

struct Field {
  void *at;
  size_t bytes;
};

Field field_of(Layout &x, int attribute) {
  switch (attribute) {
    case 0: return {&x.type, 4};
    case 1: return {&x.order, 4};
    case 2: return {&x.rows, 8};
    case 3: return {&x.cols, 8};
    case 4: return {&x.ld, 8};
    case 5: return {&x.batch, 4};
    case 6: return {&x.stride, 8};
    default: return {nullptr, 0};
  }
}
Field field_of(Operation &x, int attribute) {
  switch (attribute) {
    case 0: return {&x.compute, 4};
    case 1: return {&x.scale, 4};
    case 2: return {&x.pointer_mode, 4};
    case 3: return {&x.trans_a, 4};
    case 4: return {&x.trans_b, 4};
    case 5: return {&x.trans_c, 4};
    case 7: return {&x.epilogue, 4};
    case 8: return {&x.bias, 8};
    case 10: return {&x.bias_stride, 8};
    case 15: return {&x.sm_target, 4};
    case 26: return {&x.bias_type, 4};
    default: return {nullptr, 0};
  }
}
Field field_of(Preference &x, int attribute) {
  switch (attribute) {
    case 0: return {&x.search, 4};
    case 1: return {&x.workspace, 8};
    case 3: return {&x.reductions, 4};
    case 5: return {&x.align_a, 4};
    case 6: return {&x.align_b, 4};
    case 7: return {&x.align_c, 4};
    case 8: return {&x.align_d, 4};
    default: return {nullptr, 0};
  }
}

template <class T>
int set_attribute(Alive<T> &alive, T *object, int attribute, const void *from, size_t bytes) {
  if (!alive.has(object) || !from) return refuse(BLAS_INVALID_VALUE, "attribute of a dead descriptor");
  Field field = field_of(*object, attribute);
  if (!field.at || field.bytes != bytes) return refuse(BLAS_INVALID_VALUE, "attribute or its size");
  memcpy(field.at, from, bytes);
  return BLAS_OK;
}
template <class T>
int get_attribute(Alive<T> &alive, T *object, int attribute, void *to, size_t bytes, size_t *written) {
  if (!alive.has(object)) return refuse(BLAS_INVALID_VALUE, "attribute of a dead descriptor");
  Field field = field_of(*object, attribute);
  if (written) *written = field.bytes;
  if (!field.at || (to && bytes < field.bytes)) return BLAS_INVALID_VALUE;
  if (to) memcpy(to, field.at, field.bytes);
  return BLAS_OK;
}

Product problem(const Operation *o, const Layout *a, const Layout *b, const Layout *c, const Layout *d) {
  Product p;
  memset((void *)&p, 0, sizeof p);
  p.operation = *o;
  p.a = *a, p.b = *b, p.c = *c, p.d = *d;
  return p;
}

bool all_alive(const int *handle, const Operation *o, const Layout *a, const Layout *b, const Layout *c,
               const Layout *d) {
  return handles.has(handle) && operations.has(o) && layouts.has(a) && layouts.has(b) && layouts.has(c) &&
         layouts.has(d);
}

unsigned alignment_of(uint64_t address) {
  unsigned align = 256;
  while (address % align) align /= 2;
  return align;
}

}  // namespace

// ---- entry points ----------------------------------------------------------------------------------------

EXPORT size_t cublasLtGetVersion() { return 130002; }
EXPORT size_t cublasLtGetCudartVersion() { return 13000; }

EXPORT const char *cublasLtGetStatusName(int status) {
  switch (status) {
    case 0: return "CUBLAS_STATUS_SUCCESS";
    case 1: return "CUBLAS_STATUS_NOT_INITIALIZED";
    case 3: return "CUBLAS_STATUS_ALLOC_FAILED";
    case 7: return "CUBLAS_STATUS_INVALID_VALUE";
    case 8: return "CUBLAS_STATUS_ARCH_MISMATCH";
    case 11: return "CUBLAS_STATUS_MAPPING_ERROR";
    case 13: return "CUBLAS_STATUS_EXECUTION_FAILED";
    case 14: return "CUBLAS_STATUS_INTERNAL_ERROR";
    case 15: return "CUBLAS_STATUS_NOT_SUPPORTED";
    case 16: return "CUBLAS_STATUS_LICENSE_ERROR";
    default: return "CUBLAS_STATUS_UNKNOWN";
  }
}
EXPORT const char *cublasLtGetStatusString(int status) {
  switch (status) {
    case 0: return "success";
    case 1: return "the library was not initialized";
    case 3: return "the resource allocation failed";
    case 7: return "an unsupported value or parameter was passed to the function";
    case 8: return "the function requires an architectural feature absent from the device";
    case 13: return "the function failed to launch on the GPU";
    case 14: return "an internal operation failed";
    case 15: return "the functionality requested is not supported";
    default: return "unknown";
  }
}

EXPORT int cublasLtCreate(int **out) {
  ENTER();
  if (!out) return BLAS_INVALID_VALUE;
  *out = handles.make(1);
  return BLAS_OK;
}
EXPORT int cublasLtDestroy(int *handle) {
  ENTER();
  return handles.end(handle) ? BLAS_OK : BLAS_NOT_INITIALIZED;
}

EXPORT int cublasLtMatrixLayoutCreate(Layout **out, int type, uint64_t rows, uint64_t cols, int64_t ld) {
  ENTER();
  if (!out) return BLAS_INVALID_VALUE;
  *out = layouts.make(type, rows, cols, ld);
  return BLAS_OK;
}
EXPORT int cublasLtMatmulDescCreate(Operation **out, int compute, int scale) {
  ENTER();
  if (!out) return BLAS_INVALID_VALUE;
  *out = operations.make(compute, scale);
  return BLAS_OK;
}
EXPORT int cublasLtMatmulPreferenceCreate(Preference **out) {
  ENTER();
  if (!out) return BLAS_INVALID_VALUE;
  *out = preferences.make();
  return BLAS_OK;
}

#define DESCRIPTOR(name, type, alive)                                                                      \
  EXPORT int cublasLt##name##Destroy(type *object) {                                                       \
    ENTER();                                                                                               \
    return alive.end(object) ? BLAS_OK : refuse(BLAS_INVALID_VALUE, #name "Destroy of a dead descriptor");  \
  }                                                                                                        \
  EXPORT int cublasLt##name##SetAttribute(type *object, int attribute, const void *from, size_t bytes) {   \
    ENTER();                                                                                               \
    return set_attribute(alive, object, attribute, from, bytes);                                           \
  }                                                                                                        \
  EXPORT int cublasLt##name##GetAttribute(type *object, int attribute, void *to, size_t bytes,             \
                                          size_t *written) {                                               \
    ENTER();                                                                                               \
    return get_attribute(alive, object, attribute, to, bytes, written);                                    \
  }
DESCRIPTOR(MatrixLayout, Layout, layouts)
DESCRIPTOR(MatmulDesc, Operation, operations)
DESCRIPTOR(MatmulPreference, Preference, preferences)

EXPORT int cublasLtMatmulAlgoGetHeuristic(int *handle, Operation *operation, Layout *a, Layout *b, Layout *c,
                                          Layout *d, Preference *preference, int wanted, Heuristic *results,
                                          int *found) {
  ENTER();
  if (!all_alive(handle, operation, a, b, c, d) || !preferences.has(preference) || wanted < 1 || !results ||
      !found)
    return refuse(BLAS_INVALID_VALUE, "heuristic: a dead descriptor or no place for results");
  *found = 0;
  Product p = problem(operation, a, b, c, d);
  if (int status = check(p)) return status;
  const unsigned align[4] = {preference->align_a, preference->align_b, preference->align_c,
                             preference->align_d};
  for (uint64_t way : ways_for(p, align, preference->workspace)) {
    if (*found == wanted) break;
    if (way == TENSOR_SPLIT && !(preference->reductions & 2)) continue;
    Heuristic &result = results[(*found)++];
    memset(&result, 0, sizeof result);
    result.algorithm.mark = ALGORITHM_MARK;
    result.algorithm.way = way;
    result.workspace = workspace_of(p, way);
    result.waves = 1.0f;
  }
  return *found ? BLAS_OK : refuse(BLAS_NOT_SUPPORTED, "no algorithm for these alignments");
}

EXPORT int cublasLtMatmul(int *handle, Operation *operation, const void *alpha, uint64_t A, Layout *a,
                          uint64_t B, Layout *b, const void *beta, uint64_t C, Layout *c, uint64_t D,
                          Layout *d, const Algorithm *algorithm, uint64_t workspace, size_t workspace_bytes,
                          void *stream) {
  ENTER();
  if (!all_alive(handle, operation, a, b, c, d)) return refuse(BLAS_INVALID_VALUE, "a dead descriptor");
  if (!alpha || !beta || !A || !B || !D) return refuse(BLAS_INVALID_VALUE, "a null address");
  Product p = problem(operation, a, b, c, d);
  if (int status = check(p)) return status;
  p.A = A, p.B = B, p.C = C, p.D = D, p.workspace = workspace, p.workspace_bytes = workspace_bytes;
  if (operation->pointer_mode == 0) {
    memcpy(&p.alpha, alpha, 4);
    memcpy(&p.beta, beta, 4);
  } else if (operation->pointer_mode == 1) {
    p.alpha_at = (uint64_t)alpha, p.beta_at = (uint64_t)beta;
  } else {
    return refuse(BLAS_NOT_SUPPORTED, "pointer mode");
  }
  if ((p.beta != 0 || operation->pointer_mode) && !C) return refuse(BLAS_INVALID_VALUE, "no C, but beta");
  if ((operation->epilogue & BIAS) && !operation->bias) return refuse(BLAS_INVALID_VALUE, "no bias address");
  if (overlap(D, p.d, A, p.a) || overlap(D, p.d, B, p.b))
    return refuse(BLAS_INVALID_VALUE, "D lies over A or B");
  if (p.beta != 0 && (C != D || c->ld != d->ld || c->stride != d->stride) && overlap(C, p.c, D, p.d))
    return refuse(BLAS_INVALID_VALUE, "D lies over C in another layout");
  const unsigned align[4] = {alignment_of(A), alignment_of(B), C ? alignment_of(C) : 256, alignment_of(D)};
  auto ways = ways_for(p, align, workspace ? workspace_bytes : 0);
  if (algorithm) {
    if (algorithm->mark != ALGORITHM_MARK) return refuse(BLAS_INVALID_VALUE, "not an algorithm");
    p.way = algorithm->way;
    if (workspace_of(p, p.way) > (workspace ? workspace_bytes : 0))
      return refuse(BLAS_INVALID_VALUE, "the workspace is too small for the algorithm");
    bool fits = false;
    for (uint64_t way : ways) fits |= way == p.way;
    if (!fits) return refuse(BLAS_NOT_SUPPORTED, "the algorithm does not take these alignments");
  } else {
    if (ways.empty()) return refuse(BLAS_NOT_SUPPORTED, "no algorithm for these alignments");
    p.way = ways[0];
  }
  if (workspace % 16) return refuse(BLAS_INVALID_VALUE, "the workspace is not 16-byte aligned");
  return sim_enqueue(stream, "cublasLtMatmul", run, &p, sizeof p) ? BLAS_EXECUTION_FAILED : BLAS_OK;
}
