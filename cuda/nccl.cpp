// ncclCommInitRank takes a struct by value, which cannot be passed from JavaScript: this passes it on.
#include "native.h"

namespace {

// ncclUniqueId of nccl.h.
struct unique_id {
  char internal[128];
};

}  // namespace

int md_nccl_init_rank(void *function, void **communicator, int ranks, const void *id, int rank) {
  auto init_rank = reinterpret_cast<int (*)(void **, int, unique_id, int)>(function);
  return init_rank(communicator, ranks, *static_cast<const unique_id *>(id), rank);
}
