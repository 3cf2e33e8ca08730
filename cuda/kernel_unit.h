// One CPU kernel object: the .cu file named by -DKERNEL_SOURCE inside an unnamed namespace. Objects for v3
// and v4 hold functions of equal names; internal linkage keeps the linker from merging them, which could
// put AVX-512 code behind the v3 table.
#include "block.h"
namespace {
#include "math.h"
#include KERNEL_SOURCE
}  // namespace
