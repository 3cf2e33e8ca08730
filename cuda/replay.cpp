// Replay: walks the packed commands of a plan. Each command runs to its end on the whole pool before the
// next one begins; a command of one block runs on the calling thread alone.
#include "native.h"

#include <time.h>

namespace {

double now_ns() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return double(time.tv_sec) * 1e9 + double(time.tv_nsec);
}

int replay(const void *commands, long bytes, double *ns) {
  if (pool_threads() == 0) {
    set_error("md_init has not been called");
    return MD_NOT_READY;
  }
  const char *at = static_cast<const char *>(commands), *end = at + bytes;
  for (long index = 0; at < end; ++index) {
    const md_command *command = reinterpret_cast<const md_command *>(at);
    if (end - at < long(sizeof *command)) {
      set_error("command %ld: %ld bytes left, a header takes %ld", index, long(end - at),
                long(sizeof *command));
      return MD_BAD_COMMAND;
    }
    const md_entry *entry = kernel_at(command->kernel);
    if (!entry) {
      set_error("command %ld: no kernel has the index %u", index, command->kernel);
      return MD_BAD_COMMAND;
    }
    if (long(command->slots) != entry->slots) {
      set_error("command %ld: %s takes %ld slots, the command has %u", index, entry->name, entry->slots,
                command->slots);
      return MD_BAD_COMMAND;
    }
    const char *slots = at + sizeof *command;
    at = slots + 8L * command->slots;
    if (at > end) {
      set_error("command %ld: %s is cut off %ld bytes early", index, entry->name, long(at - end));
      return MD_BAD_COMMAND;
    }
    const bool product = entry == &gemm_entry;
    double begin = ns ? now_ns() : 0;
    if (is_collective(entry)) {
      const int status = collective_run(entry, slots);
      if (status != MD_OK) return status;
      if (ns) ns[index] = now_ns() - begin;
      continue;
    }
    if (product ? !gemm_run(slots) : !pool_scratch(command->scratch_bytes)) {
      set_error("command %ld: no memory for the scratch of %s", index, entry->name);
      return MD_NO_MEMORY;
    }
    if (!product) pool_run(entry, slots, long(command->blocks), false);
    if (ns) ns[index] = now_ns() - begin;
  }
  return MD_OK;
}

}  // namespace

int md_replay(const void *commands, long bytes) { return replay(commands, bytes, nullptr); }

int md_replay_timed(const void *commands, long bytes, double *ns_per_command) {
  return replay(commands, bytes, ns_per_command);
}
