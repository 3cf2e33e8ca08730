// The packed matrix product for x86-64-v4: 12 x 32 tiles, AVX-512.
#include "packed.h"

const GemmKernels gemm_v4 = {max_rows, width, step, pack_panels, compute};
