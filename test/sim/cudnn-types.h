// The stand-in cuDNN's descriptors: which attributes a kind has, of which type and how many. Numbers are
// those of cudnn_graph.h, release 9; only what a forward convolution needs is known, all else is refused.
#pragma once
#include <stdint.h>
#include <string.h>

#include <map>
#include <set>
#include <string>
#include <vector>

enum Status : int {
  OK = 0,
  NOT_INITIALIZED = 1001,
  BAD_PARAM = 2000,
  BAD_NULL_POINTER = 2002,
  BAD_ATTRIBUTE_TYPE = 2010,
  BAD_DESCRIPTOR_TYPE = 2012,
  NOT_SUPPORTED = 3000,
  NOT_SUPPORTED_SHAPE = 3002,
  NOT_SUPPORTED_LAYOUT = 3004,
  EXECUTION_FAILED = 5000,
};

enum Kind : int {
  CONVOLUTION = 1,
  ENGINE = 2,
  ENGINE_CONFIG = 3,
  HEURISTICS = 4,
  PLAN = 5,
  CONVOLUTION_FORWARD = 10,
  GRAPH = 15,
  VARIANT_PACK = 16,
  TENSOR = 17,
};

enum Type : int {
  T_HANDLE = 0,
  T_DATA_TYPE = 1,
  T_INT64 = 3,
  T_FLOAT = 4,
  T_VOID_PTR = 6,
  T_CONVOLUTION_MODE = 7,
  T_HEURISTIC_MODE = 8,
  T_NUMERICAL_NOTE = 11,
  T_DESCRIPTOR = 15,
};

enum DataType : int { F32 = 0, BF16 = 9 };
enum Mode : int { MODE_FALLBACK = 2, MODE_A = 3 };
enum Note : int {
  TENSOR_CORE = 0,
  DOWN_CONVERT_INPUTS = 1,
  REDUCED_PRECISION_REDUCTION = 2,
  NONDETERMINISTIC = 4,
  WINOGRAD = 5,
  WINOGRAD_4X4 = 6,
};

inline size_t type_bytes(int type) {
  switch (type) {
    case T_HANDLE:
    case T_INT64:
    case T_VOID_PTR:
    case T_DESCRIPTOR: return 8;
    default: return 4;
  }
}

// An attribute that may be set: `of` is the kind of descriptor that it holds, for T_DESCRIPTOR.
struct Rule {
  int kind, attribute, type;
  int64_t least, most;
  int of;
};

const Rule RULES[] = {
    {TENSOR, 900, T_INT64, 1, 1, 0},                          // byte alignment
    {TENSOR, 901, T_DATA_TYPE, 1, 1, 0},                      //
    {TENSOR, 902, T_INT64, 3, 8, 0},                          // dimensions
    {TENSOR, 903, T_INT64, 3, 8, 0},                          // strides
    {TENSOR, 906, T_INT64, 1, 1, 0},                          // unique id
    {CONVOLUTION, 100, T_DATA_TYPE, 1, 1, 0},                 // compute type
    {CONVOLUTION, 101, T_CONVOLUTION_MODE, 1, 1, 0},          //
    {CONVOLUTION, 102, T_INT64, 2, 2, 0},                     // dilations
    {CONVOLUTION, 103, T_INT64, 2, 2, 0},                     // strides
    {CONVOLUTION, 104, T_INT64, 2, 2, 0},                     // padding after
    {CONVOLUTION, 105, T_INT64, 2, 2, 0},                     // padding before
    {CONVOLUTION, 106, T_INT64, 1, 1, 0},                     // spatial dimensions
    {CONVOLUTION_FORWARD, 700, T_FLOAT, 1, 1, 0},             // alpha
    {CONVOLUTION_FORWARD, 701, T_FLOAT, 1, 1, 0},             // beta
    {CONVOLUTION_FORWARD, 702, T_DESCRIPTOR, 1, 1, CONVOLUTION},
    {CONVOLUTION_FORWARD, 703, T_DESCRIPTOR, 1, 1, TENSOR},   // w
    {CONVOLUTION_FORWARD, 704, T_DESCRIPTOR, 1, 1, TENSOR},   // x
    {CONVOLUTION_FORWARD, 705, T_DESCRIPTOR, 1, 1, TENSOR},   // y
    {GRAPH, 800, T_HANDLE, 1, 1, 0},                          //
    {GRAPH, 801, T_DESCRIPTOR, 1, 1, CONVOLUTION_FORWARD},    // operations
    {HEURISTICS, 200, T_HEURISTIC_MODE, 1, 1, 0},             //
    {HEURISTICS, 201, T_DESCRIPTOR, 1, 1, GRAPH},             //
    {PLAN, 400, T_HANDLE, 1, 1, 0},                           //
    {PLAN, 401, T_DESCRIPTOR, 1, 1, ENGINE_CONFIG},           //
    {VARIANT_PACK, 1000, T_INT64, 1, 8, 0},                   // unique ids
    {VARIANT_PACK, 1001, T_VOID_PTR, 1, 8, 0},                // addresses
    {VARIANT_PACK, 1003, T_VOID_PTR, 1, 1, 0},                // workspace
};

struct Descriptor {
  explicit Descriptor(int kind_) : kind(kind_) {}
  int kind;
  bool finalized = false;
  std::map<int, std::vector<uint64_t>> values;  // by attribute; narrow types widened
  int users = 0;                                // living descriptors that refer to this one
  std::vector<Descriptor *> uses;
  int engine = -1;              // of an engine, its configuration and its plan
  Descriptor *graph = nullptr;  // of those three
  uint64_t workspace = 0;       // of a plan

  bool has(int attribute) const { return values.count(attribute) > 0; }
  int64_t number(int attribute, size_t i = 0) const { return (int64_t)values.at(attribute)[i]; }
  float real(int attribute) const {
    float value;
    uint32_t bits = (uint32_t)values.at(attribute)[0];
    memcpy(&value, &bits, 4);
    return value;
  }
  Descriptor *descriptor(int attribute) const { return (Descriptor *)values.at(attribute)[0]; }
};

// The engines there are. `unlike`: sums in another way than one float after the other.
struct Engine {
  int index;
  bool in_a, in_fallback, tensor, finalizes;
  std::vector<int> notes;
  uint64_t fixed_workspace;
};

// Proposals of mode A, best first, then those of the fallback: nearly all are there to be passed over.
const Engine ENGINES[] = {
    {54, true, false, true, true, {TENSOR_CORE, NONDETERMINISTIC}, 0},
    {61, true, false, true, true, {TENSOR_CORE}, 12ull << 30},
    {38, true, false, true, false, {TENSOR_CORE}, 0},
    {32, true, false, false, true, {WINOGRAD, WINOGRAD_4X4}, 4096},
    {12, true, false, false, true, {DOWN_CONVERT_INPUTS}, 0},
    {1, true, false, true, true, {TENSOR_CORE}, 65536},
    {0, false, true, false, true, {}, 512},
};
