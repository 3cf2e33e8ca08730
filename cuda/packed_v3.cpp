// The packed matrix product for x86-64-v3: 6 x 16 tiles, AVX2.
#include "packed.h"

const GemmKernels gemm_v3 = {max_rows, width, step, pack_panels, compute};
