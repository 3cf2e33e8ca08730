// What the stand-in driver gives to the stand-ins of libraries that queue work of their own.
#pragma once
#include <stddef.h>
#include <stdint.h>

#define EXPORT extern "C" __attribute__((visibility("default")))

// Queues `run` on a stream, or adds it to the stream's capture; it gets a copy of `data`, as often as it is
// replayed, and returns 0 or a status that loses the context. Returns a CUresult.
EXPORT int sim_enqueue(void *stream, const char *what, int (*run)(void *data), const void *data,
                       size_t bytes);
// Whether a range lies in live device memory; if not, a complaint that begins with `what`.
EXPORT int sim_live(uint64_t address, size_t bytes, const char *what);
// Said by `run`: until work that is ordered after it begins, nobody may write this range. Who does so on
// another branch of a graph is noticed.
EXPORT void sim_hold(uint64_t address, size_t bytes, const char *what);
// Remembers and prints a complaint; returns `status`.
EXPORT int sim_complain(int status, const char *text);
// The value of a setting (SIM_...), empty where it has none; good until it is set anew.
EXPORT const char *sim_setting(const char *name);
// Counts a call; returns the status that SIM_FAIL asks for, or 0.
EXPORT int sim_gate(const char *name);
