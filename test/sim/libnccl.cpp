// A stand-in for libnccl: one rank, or several as processes of this machine over shared memory; sums in the
// order of ranks. Work is queued on a stream of the stand-in driver. Test source only.
//
//   SIM_NCCL_SECONDS   how long a rank waits for the others before it gives up (60)
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <set>
#include <string>

#include "stand-in.h"

#define ENTER() \
  if (int status = sim_gate(__func__)) return status

namespace {

enum Result : int {
  OK = 0,
  UNHANDLED_CUDA_ERROR = 1,
  SYSTEM_ERROR = 2,
  INVALID_ARGUMENT = 4,
  INVALID_USAGE = 5,
};
enum Type : int { FLOAT32 = 7, BFLOAT16 = 9 };
enum Op : int { SUM = 0, AVERAGE = 4 };
enum Kind : int { ALL_REDUCE = 1, REDUCE_SCATTER, ALL_GATHER, BROADCAST, REDUCE };

const int MAX_RANKS = 16;
const size_t CHUNK = 1 << 20;
const int LAUNCH_FAILED = 719;

// What all ranks see: a barrier, what each is about to do, and a buffer for each.
struct Shared {
  std::atomic<int> arrived, turn, broken;
  int64_t kind[MAX_RANKS], count[MAX_RANKS], type[MAX_RANKS];
  alignas(4096) char slots[];
};

struct Communicator {
  int ranks, rank;
  Shared *shared;  // null for one rank
};
std::set<Communicator *> alive;
std::string last_error;

int refuse(int status, const std::string &words) {
  last_error = words;
  sim_complain(0, ("nccl: " + words).c_str());
  return status;
}

bool barrier(const Communicator &comm) {
  Shared &shared = *comm.shared;
  const char *limit = getenv("SIM_NCCL_SECONDS");
  const time_t end = time(nullptr) + (limit ? atoi(limit) : 60);
  const int turn = shared.turn;
  if (++shared.arrived == comm.ranks) {
    shared.arrived = 0;
    ++shared.turn;
    return !shared.broken;
  }
  for (long waits = 0; shared.turn == turn; ++waits) {
    if (shared.broken || (waits % 1000 == 999 && time(nullptr) > end)) {
      shared.broken = 1;
      refuse(SYSTEM_ERROR, "a rank waited in vain for the others");
      return false;
    }
    if (waits > 200) usleep(100);
  }
  return !shared.broken;
}

size_t size_of(int type) {
  static const int sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};
  return type >= 0 && type < 10 ? size_t(sizes[type]) : 0;
}

float value_at(const char *from, int type, size_t i) {
  if (type == FLOAT32) return ((const float *)from)[i];
  uint32_t bits = uint32_t(((const uint16_t *)from)[i]) << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
void put(char *to, int type, size_t i, float value) {
  if (type == FLOAT32) {
    ((float *)to)[i] = value;
    return;
  }
  uint32_t bits;
  memcpy(&bits, &value, 4);
  bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  ((uint16_t *)to)[i] = uint16_t(nan ? bits >> 16 | 0x40u : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

struct Collective {
  Communicator comm;
  int kind, type, op, root;
  uint64_t send, receive;
  size_t count;  // of one rank's part

  size_t send_count() const { return kind == REDUCE_SCATTER ? count * size_t(comm.ranks) : count; }
  size_t receive_count() const { return kind == ALL_GATHER ? count * size_t(comm.ranks) : count; }
};

char *slot(const Collective &c, int rank) { return c.comm.shared->slots + size_t(rank) * CHUNK; }

// One turn over all ranks: each shows `count` elements of `from`, then `read` may look at all slots.
template <class Read>
bool turn(const Collective &c, const char *from, size_t first, size_t count, Read read) {
  const size_t size = size_of(c.type);
  if (from) memcpy(slot(c, c.comm.rank), from + first * size, count * size);
  if (!barrier(c.comm)) return false;
  read();
  return barrier(c.comm);
}

void add_slots(const Collective &c, char *to, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    float sum = value_at(slot(c, 0), c.type, i);
    for (int rank = 1; rank < c.comm.ranks; ++rank) sum += value_at(slot(c, rank), c.type, i);
    put(to, c.type, i, c.op == AVERAGE ? sum / float(c.comm.ranks) : sum);
  }
}

bool run_chunk(const Collective &c, size_t first, size_t count) {
  const char *send = (const char *)c.send;
  char *receive = (char *)c.receive;
  const size_t size = size_of(c.type);
  switch (c.kind) {
    case REDUCE:
      return turn(c, send, first, count, [&] {
        if (c.comm.rank == c.root) add_slots(c, receive + first * size, count);
      });
    case ALL_REDUCE:
      return turn(c, send, first, count, [&] { add_slots(c, receive + first * size, count); });
    case REDUCE_SCATTER:
      for (int part = 0; part < c.comm.ranks; ++part)
        if (!turn(c, send, size_t(part) * c.count + first, count, [&] {
              if (part == c.comm.rank) add_slots(c, receive + first * size, count);
            }))
          return false;
      return true;
    case ALL_GATHER:
      return turn(c, send, first, count, [&] {
        for (int rank = 0; rank < c.comm.ranks; ++rank)
          memcpy(receive + (size_t(rank) * c.count + first) * size, slot(c, rank), count * size);
      });
    default:
      return turn(c, c.comm.rank == c.root ? send : nullptr, first, count,
                  [&] { memcpy(receive + first * size, slot(c, c.root), count * size); });
  }
}

int exchange(const Collective &c) {
  const size_t size = size_of(c.type);
  const bool sends = c.kind != BROADCAST || c.comm.rank == c.root;
  if ((sends && !sim_live(c.send, c.send_count() * size, "nccl: send buffer")) ||
      !sim_live(c.receive, c.receive_count() * size, "nccl: receive buffer"))
    return 700;
  if (!c.comm.shared) {
    memmove((void *)c.receive, (const void *)c.send, c.count * size);
    return 0;
  }
  Shared &shared = *c.comm.shared;
  shared.kind[c.comm.rank] = c.kind;
  shared.count[c.comm.rank] = (int64_t)c.count;
  shared.type[c.comm.rank] = c.type;
  if (!barrier(c.comm)) return LAUNCH_FAILED;
  for (int rank = 0; rank < c.comm.ranks; ++rank)
    if (shared.kind[rank] != c.kind || shared.type[rank] != c.type ||
        shared.count[rank] != (int64_t)c.count) {
      refuse(INVALID_USAGE, "rank " + std::to_string(rank) + " calls something else");
      shared.broken = 1;
      return LAUNCH_FAILED;
    }
  if (!barrier(c.comm)) return LAUNCH_FAILED;
  const size_t step = CHUNK / size;
  for (size_t first = 0; first < c.count; first += step)
    if (!run_chunk(c, first, c.count - first < step ? c.count - first : step)) return LAUNCH_FAILED;
  return 0;
}

int run(void *data) {
  Collective c;
  memcpy((void *)&c, data, sizeof c);
  const int status = exchange(c);
  const size_t size = size_of(c.type);
  if (status == 0 && c.send && c.send != c.receive)
    sim_hold(c.send, c.send_count() * size, "nccl: what is sent");
  if (status == 0) sim_hold(c.receive, c.receive_count() * size, "nccl: what is received");
  return status;
}

int collect(const char *name, Collective c, Communicator *comm, void *stream) {
  if (!alive.count(comm)) return refuse(INVALID_ARGUMENT, "not a communicator, or destroyed");
  if (!size_of(c.type) || !c.receive || (!c.send && c.kind != BROADCAST))
    return refuse(INVALID_ARGUMENT, "type or address");
  bool sums = c.kind == ALL_REDUCE || c.kind == REDUCE_SCATTER || c.kind == REDUCE;
  if (sums && ((c.type != FLOAT32 && c.type != BFLOAT16) || (c.op != SUM && c.op != AVERAGE)))
    return refuse(INVALID_ARGUMENT, "the stand-in adds float and bf16 only");
  if (c.root < 0 || c.root >= comm->ranks) return refuse(INVALID_ARGUMENT, "root");
  c.comm = *comm;
  // A rank's own part may be in place; any other overlap destroys what is still to be read.
  const uint64_t size = size_of(c.type), sent = c.send_count() * size, got = c.receive_count() * size;
  const uint64_t shift = uint64_t(comm->rank) * c.count * size;
  const bool in_place = c.kind == ALL_GATHER       ? c.send == c.receive + shift
                        : c.kind == REDUCE_SCATTER ? c.receive == c.send + shift
                                                   : c.send == c.receive;
  if (c.send && !in_place && c.send < c.receive + got && c.receive < c.send + sent)
    return refuse(INVALID_ARGUMENT, "buffers overlap");
  return sim_enqueue(stream, name, run, &c, sizeof c) ? UNHANDLED_CUDA_ERROR : OK;
}

struct UniqueId {
  char internal[128];
};

int join(Communicator **out, int ranks, const UniqueId &id, int rank) {
  if (!out || ranks < 1 || ranks > MAX_RANKS || rank < 0 || rank >= ranks)
    return refuse(INVALID_ARGUMENT, "rank or number of ranks");
  auto *comm = new Communicator{ranks, rank, nullptr};
  if (ranks > 1) {
    if (strncmp(id.internal, "/sim-nccl-", 10)) return refuse(INVALID_ARGUMENT, "not a unique id");
    int file = shm_open(id.internal, O_CREAT | O_RDWR, 0600);
    const size_t bytes = sizeof(Shared) + size_t(ranks) * CHUNK;
    void *memory = MAP_FAILED;
    if (file >= 0 && ftruncate(file, (off_t)bytes) == 0)
      memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (file >= 0) close(file);
    if (memory == MAP_FAILED) return refuse(SYSTEM_ERROR, "no shared memory");
    comm->shared = (Shared *)memory;
    if (!barrier(*comm)) return SYSTEM_ERROR;
    if (rank == 0) shm_unlink(id.internal);
  }
  alive.insert(comm);
  *out = comm;
  return OK;
}

}  // namespace

EXPORT int ncclGetVersion(int *out) {
  ENTER();
  if (!out) return INVALID_ARGUMENT;
  *out = 22703;
  return OK;
}

EXPORT const char *ncclGetErrorString(int status) {
  switch (status) {
    case 0: return "no error";
    case 1: return "unhandled cuda error (run with NCCL_DEBUG=INFO for details)";
    case 2: return "unhandled system error (run with NCCL_DEBUG=INFO for details)";
    case 3: return "internal error - please report this issue to the NCCL developers";
    case 4: return "invalid argument (run with NCCL_DEBUG=WARN for details)";
    case 5: return "invalid usage (run with NCCL_DEBUG=WARN for details)";
    case 6: return "remote process exited or there was a network error";
    case 7: return "NCCL operation in progress";
    default: return "unknown result code";
  }
}
EXPORT const char *ncclGetLastError(Communicator *) { return last_error.c_str(); }

EXPORT int ncclGetUniqueId(UniqueId *out) {
  ENTER();
  if (!out) return INVALID_ARGUMENT;
  uint64_t random = 0;
  if (getrandom(&random, sizeof random, 0) < 0) return SYSTEM_ERROR;
  memset(out, 0, sizeof *out);
  snprintf(out->internal, sizeof out->internal, "/sim-nccl-%d-%lx", getpid(), (unsigned long)random);
  return OK;
}

EXPORT int ncclCommInitRank(Communicator **out, int ranks, UniqueId id, int rank) {
  ENTER();
  return join(out, ranks, id, rank);
}
// The same with the id by address, and no configuration.
EXPORT int ncclCommInitRankScalable(Communicator **out, int ranks, int rank, int ids, const UniqueId *id,
                                    void *config) {
  ENTER();
  if (ids != 1 || !id || config) return refuse(INVALID_ARGUMENT, "one id and no configuration");
  return join(out, ranks, *id, rank);
}
EXPORT int ncclCommInitAll(Communicator **out, int devices, const int *) {
  ENTER();
  if (devices != 1) return refuse(INVALID_ARGUMENT, "the stand-in has one device in a process");
  return join(out, 1, UniqueId(), 0);
}
static int end(Communicator *comm) {
  if (!alive.erase(comm)) return refuse(INVALID_ARGUMENT, "not a communicator, or destroyed");
  return OK;  // queued work may still use the shared memory
}
EXPORT int ncclCommFinalize(Communicator *comm) {
  ENTER();
  return alive.count(comm) ? OK : INVALID_ARGUMENT;
}
EXPORT int ncclCommDestroy(Communicator *comm) {
  ENTER();
  return end(comm);
}
EXPORT int ncclCommAbort(Communicator *comm) {
  ENTER();
  if (alive.count(comm) && comm->shared) comm->shared->broken = 1;
  return end(comm);
}
EXPORT int ncclCommCount(Communicator *comm, int *out) {
  ENTER();
  if (!alive.count(comm) || !out) return INVALID_ARGUMENT;
  *out = comm->ranks;
  return OK;
}
EXPORT int ncclCommUserRank(Communicator *comm, int *out) {
  ENTER();
  if (!alive.count(comm) || !out) return INVALID_ARGUMENT;
  *out = comm->rank;
  return OK;
}
EXPORT int ncclCommGetAsyncError(Communicator *comm, int *out) {
  ENTER();
  if (!alive.count(comm) || !out) return INVALID_ARGUMENT;
  *out = comm->shared && comm->shared->broken ? 6 : OK;
  return OK;
}
EXPORT int ncclGroupStart() {
  ENTER();
  return OK;
}
EXPORT int ncclGroupEnd() {
  ENTER();
  return OK;
}

EXPORT int ncclAllReduce(uint64_t send, uint64_t receive, size_t count, int type, int op, Communicator *comm,
                         void *stream) {
  ENTER();
  return collect(__func__, {{}, ALL_REDUCE, type, op, 0, send, receive, count}, comm, stream);
}
EXPORT int ncclReduce(uint64_t send, uint64_t receive, size_t count, int type, int op, int root,
                      Communicator *comm, void *stream) {
  ENTER();
  return collect(__func__, {{}, REDUCE, type, op, root, send, receive, count}, comm, stream);
}
EXPORT int ncclReduceScatter(uint64_t send, uint64_t receive, size_t count, int type, int op,
                             Communicator *comm, void *stream) {
  ENTER();
  return collect(__func__, {{}, REDUCE_SCATTER, type, op, 0, send, receive, count}, comm, stream);
}
EXPORT int ncclAllGather(uint64_t send, uint64_t receive, size_t count, int type, Communicator *comm,
                         void *stream) {
  ENTER();
  return collect(__func__, {{}, ALL_GATHER, type, SUM, 0, send, receive, count}, comm, stream);
}
EXPORT int ncclBroadcast(uint64_t send, uint64_t receive, size_t count, int type, int root,
                         Communicator *comm, void *stream) {
  ENTER();
  return collect(__func__, {{}, BROADCAST, type, SUM, root, send, receive, count}, comm, stream);
}
