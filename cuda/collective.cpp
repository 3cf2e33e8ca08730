// Collective operations of several processes of one machine on the CPU, over one shared memory file: a slot
// for each rank, barriers by a futex that all of them share. Sums are taken in the order of ranks, so every
// rank has equal bits and so has every repeat.
//
// A rank that ends, however it does, must not leave the others waiting: each holds a lock of its own byte of
// the file, which the system gives back with the process. Who waits for long looks at the others' locks.
#include "native.h"

#include <atomic>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <linux/memfd.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

namespace {

// x[i] = sum over ranks of x[i].
struct all_reduce {
  real *x;
  long count;
};
// x[i] = sum over ranks of x[i] on rank `root`; on the others x stays as it is.
struct reduce {
  real *x;
  long count, root;
};
// x [ranks, count]: every stretch as the rank has it that it belongs to.
struct all_gather {
  act *x;
  long count, rank, ranks;
};
// x [count] as rank `root` has it.
struct broadcast {
  act *x;
  long count, root;
};

constexpr int max_ranks = 64;
constexpr long slot_bytes = 1 << 20, header_bytes = 1 << 16;
constexpr long patience_ns = 50000000, spins = 2000;

struct alignas(64) Call {
  int64_t kernel, count;
};

struct Shared {
  alignas(64) std::atomic<uint32_t> arrived;
  alignas(64) std::atomic<uint32_t> turn;
  std::atomic<uint32_t> lost;  // a rank that is gone, counted from 1
  std::atomic<uint32_t> ranks;
  std::atomic<uint32_t> joined[max_ranks];
  Call calls[max_ranks];
};
static_assert(sizeof(Shared) <= header_bytes, "the header holds what all ranks see");

Shared *shared = nullptr;
int own = 0, group = 1, file = -1;

long futex(std::atomic<uint32_t> *address, int operation, uint32_t value, const timespec *time) {
  return syscall(SYS_futex, reinterpret_cast<uint32_t *>(address), operation, value, time, nullptr, 0);
}

char *slot(int rank) { return reinterpret_cast<char *>(shared) + header_bytes + rank * slot_bytes; }

struct flock byte_of(int rank, short type) {
  struct flock lock;
  memset(&lock, 0, sizeof lock);
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = rank;
  lock.l_len = 1;
  return lock;
}

// Says that a rank is gone, unless another was before.
void give_up(int rank) {
  uint32_t none = 0;
  shared->lost.compare_exchange_strong(none, uint32_t(rank) + 1);
  futex(&shared->turn, FUTEX_WAKE, INT_MAX, nullptr);
}

void look_after_others() {
  for (int rank = 0; rank < group; ++rank) {
    if (rank == own || !shared->joined[rank].load()) continue;
    struct flock lock = byte_of(rank, F_WRLCK);
    if (fcntl(file, F_OFD_GETLK, &lock) == 0 && lock.l_type == F_UNLCK) give_up(rank);
  }
}

// False where a rank is gone.
bool barrier() {
  const uint32_t turn = shared->turn.load();
  if (shared->arrived.fetch_add(1) + 1 == uint32_t(group)) {
    shared->arrived.store(0);
    shared->turn.fetch_add(1);
    futex(&shared->turn, FUTEX_WAKE, INT_MAX, nullptr);
    return true;
  }
  for (long tries = 0; shared->turn.load() == turn; ++tries) {
    if (shared->lost.load()) return false;
    if (tries < spins) {
      __builtin_ia32_pause();
      continue;
    }
    const timespec patience = {0, patience_ns};
    const bool waited = futex(&shared->turn, FUTEX_WAIT, turn, &patience) == 0 || errno != ETIMEDOUT;
    if (!waited && shared->turn.load() == turn) look_after_others();
  }
  return true;
}

int lost() {
  set_error("rank %u", shared->lost.load() - 1);
  return MD_LOST;
}

// All ranks have come to the same call.
int agree(const md_entry *entry, long count) {
  if (!shared) {
    set_error("%s: this process is in no group of ranks", entry->name);
    return MD_BAD_COMMAND;
  }
  const int64_t kernel = entry - collective_entries;
  shared->calls[own].kernel = kernel;
  shared->calls[own].count = count;
  if (!barrier()) return lost();
  int other = -1;
  for (int rank = 0; rank < group; ++rank)
    if (shared->calls[rank].kernel != kernel || shared->calls[rank].count != count) other = rank;
  if (!barrier()) return lost();
  if (other < 0) return MD_OK;
  set_error("rank %d calls another collective operation than %s of %ld", other, entry->name, count);
  return MD_BAD_COMMAND;
}

// Sums over ranks of n numbers that lie in every slot.
void add_slots(real *to, long n) {
  memcpy(to, slot(0), size_t(n) * sizeof(real));
  for (int rank = 1; rank < group; ++rank) {
    const real *from = reinterpret_cast<real *>(slot(rank));
    for (long i = 0; i < n; ++i) to[i] += from[i];
  }
}

// One turn: every rank shows what `show` writes into its slot, then `read` may look at all slots.
template <class Show, class Read> int turn(Show show, Read read) {
  show();
  if (!barrier()) return lost();
  read();
  return barrier() ? MD_OK : lost();
}

template <class Piece> int pieces(long count, long most, Piece piece) {
  for (long at = 0; at < count; at += most) {
    const int status = piece(at, count - at < most ? count - at : most);
    if (status != MD_OK) return status;
  }
  return MD_OK;
}

constexpr long room = slot_bytes / long(sizeof(real));

int run(const all_reduce &c) {
  return pieces(c.count, room, [&](long at, long n) {
    return turn([&] { memcpy(slot(own), c.x + at, size_t(n) * sizeof(real)); },
                [&] { add_slots(c.x + at, n); });
  });
}

int run(const reduce &c) {
  return pieces(c.count, room, [&](long at, long n) {
    return turn([&] { memcpy(slot(own), c.x + at, size_t(n) * sizeof(real)); },
                [&] {
                  if (own == int(c.root)) add_slots(c.x + at, n);
                });
  });
}

int run(const all_gather &c) {
  return pieces(c.count, room, [&](long at, long n) {
    auto read = [&] {
      for (int rank = 0; rank < group; ++rank)
        if (rank != own) memcpy(c.x + rank * c.count + at, slot(rank), size_t(n) * sizeof(act));
    };
    return turn([&] { memcpy(slot(own), c.x + own * c.count + at, size_t(n) * sizeof(act)); }, read);
  });
}

int run(const broadcast &c) {
  return pieces(c.count, room, [&](long at, long n) {
    auto show = [&] {
      if (own == int(c.root)) memcpy(slot(own), c.x + at, size_t(n) * sizeof(act));
    };
    auto read = [&] {
      if (own != int(c.root)) memcpy(c.x + at, slot(int(c.root)), size_t(n) * sizeof(act));
    };
    return turn(show, read);
  });
}

template <class Operation> int run_as(const md_entry *entry, const void *slots) {
  const Operation &c = *static_cast<const Operation *>(slots);
  const int status = agree(entry, c.count);
  return status == MD_OK ? run(c) : status;
}

template <class Operation> int run_in_group(const md_entry *entry, const void *slots) {
  const Operation &c = *static_cast<const Operation *>(slots);
  if (shared && (c.rank != own || c.ranks != group)) {
    set_error("%s: made for rank %ld of %ld, this is %d of %d", entry->name, c.rank, c.ranks, own, group);
    return MD_BAD_COMMAND;
  }
  return run_as<Operation>(entry, slots);
}

}  // namespace

const md_entry collective_entries[collective_count] = {
    {"all_reduce", nullptr, long(sizeof(all_reduce) / 8)},
    {"reduce", nullptr, long(sizeof(reduce) / 8)},
    {"all_gather", nullptr, long(sizeof(all_gather) / 8)},
    {"broadcast", nullptr, long(sizeof(broadcast) / 8)},
};

int collective_run(const md_entry *entry, const void *slots) {
  switch (entry - collective_entries) {
    case 0: return run_as<all_reduce>(entry, slots);
    case 1: return run_as<reduce>(entry, slots);
    case 2: return run_in_group<all_gather>(entry, slots);
    default: return run_as<broadcast>(entry, slots);
  }
}

int md_group_file(int ranks) {
  if (ranks < 1 || ranks > max_ranks) {
    set_error("%d ranks: 1 to %d can share a machine's memory", ranks, max_ranks);
    return -1;
  }
  const long made = syscall(SYS_memfd_create, "microdiff-ranks", MFD_CLOEXEC);
  if (made < 0 || ftruncate(int(made), header_bytes + ranks * slot_bytes)) {
    set_error("no shared memory for %d ranks: %s", ranks, strerror(errno));
    if (made >= 0) close(int(made));
    return -1;
  }
  return int(made);
}

int md_group_join(const char *path, int rank, int ranks) {
  const long bytes = header_bytes + ranks * slot_bytes;
  if (shared) {
    set_error("this process is rank %d of %d already", own, group);
    return MD_BAD_COMMAND;
  }
  const int opened = open(path, O_RDWR | O_CLOEXEC);
  if (opened < 0 || lseek(opened, 0, SEEK_END) != bytes) {
    set_error("the shared memory of the ranks, %s: %s", path, opened < 0 ? strerror(errno) : "another size");
    if (opened >= 0) close(opened);
    return MD_NO_MEMORY;
  }
  struct flock lock = byte_of(rank, F_WRLCK);
  void *memory = MAP_FAILED;
  if (rank >= 0 && rank < ranks && fcntl(opened, F_OFD_SETLK, &lock) == 0)
    memory = mmap(nullptr, size_t(bytes), PROT_READ | PROT_WRITE, MAP_SHARED, opened, 0);
  if (memory == MAP_FAILED) {
    set_error("rank %d of %d cannot join: %s", rank, ranks, strerror(errno));
    close(opened);
    return MD_NO_MEMORY;
  }
  shared = static_cast<Shared *>(memory);
  own = rank;
  group = ranks;
  file = opened;
  shared->joined[rank].store(1);
  return MD_OK;
}
