// The packed matrix product for x86-64-v4 with AVX-512 BF16: 12 x 32 tiles of bf16 dot products.
#include "packed.h"

const GemmKernels gemm_bf16 = {max_rows, width, step, pack_panels, compute};
