// The stand-in cublasLt's descriptors and constants: values of cublasLt.h, releases 12 and 13.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <set>

enum Blas : int {
  BLAS_OK = 0,
  BLAS_NOT_INITIALIZED = 1,
  BLAS_INVALID_VALUE = 7,
  BLAS_EXECUTION_FAILED = 13,
  BLAS_NOT_SUPPORTED = 15,
};

enum Type : int { R_32F = 0, R_16BF = 14 };
enum Compute : int { COMPUTE_32F = 68, COMPUTE_32F_PEDANTIC = 69, COMPUTE_32F_FAST_TF32 = 77 };
enum Order : int { COL = 0, ROW = 1 };
enum Epilogue : int { PLAIN = 1, BIAS = 4, GELU = 32, GELU_BIAS = 36 };

struct Layout {
  int type;
  uint64_t rows, cols;
  int64_t ld;
  int order = COL;
  int batch = 1;
  int64_t stride = 0;

  uint64_t minor() const { return order == COL ? rows : cols; }  // elements that lie side by side
  uint64_t major() const { return order == COL ? cols : rows; }
  size_t size() const { return type == R_32F ? 4 : 2; }
  // Bytes from the first to the last element.
  size_t span() const {
    return size() * ((major() - 1) * uint64_t(ld) + minor() + uint64_t(batch - 1) * uint64_t(stride));
  }
};

struct Operation {
  int compute, scale;
  int pointer_mode = 0;  // 0: alpha and beta on the host, 1: on the device
  int trans_a = 0, trans_b = 0, trans_c = 0;
  int epilogue = PLAIN;
  uint64_t bias = 0;
  int64_t bias_stride = 0;
  int bias_type = -1;  // -1: that of D
  int sm_target = 0;
};

struct Preference {
  int search = 0;
  uint64_t workspace = 0;
  unsigned reductions = 7;  // 2: sums of parts in the compute type, after all parts
  unsigned align_a = 256, align_b = 256, align_c = 256, align_d = 256;
};

// 64 bytes, as the library's own. TENSOR ways need 16-byte alignment of everything; SPLIT cuts the depth in
// two and adds the halves in the workspace; ANY takes all alignments. They round differently.
enum Way : uint64_t { TENSOR_SPLIT = 71, TENSOR = 66, ANY = 21 };
struct Algorithm {
  uint64_t mark, way, unused[6];
};
const uint64_t ALGORITHM_MARK = 0x51A051A051A051A0u;

struct Heuristic {
  Algorithm algorithm;
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
};
static_assert(sizeof(Algorithm) == 64 && sizeof(Heuristic) == 96, "as in cublasLt.h");

// Objects that are alive; others are refused instead of followed.
template <class T> class Alive {
 public:
  template <class... A> T *make(A... arguments) {
    T *object = new T{arguments...};
    all_.insert(object);
    return object;
  }
  bool has(const T *object) const { return all_.count(const_cast<T *>(object)) > 0; }
  bool end(T *object) {
    if (!all_.erase(object)) return false;
    delete object;
    return true;
  }

 private:
  std::set<T *> all_;
};
