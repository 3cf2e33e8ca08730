#!/bin/sh
# Reads what ptxas and nvcc said (build/gpu/PART.sm_NN.log) and prints a table: registers, stack, spills and
# static shared memory of every kernel on every target. Fails on any warning, on spills on sm_90 and on more
# than 48 KiB of static shared memory, a line each on stderr.
#   sh cuda/check-fatbin.sh build/gpu/bf16.sm_90.log ...
set -eu
awk '
  function fault(words) { print "check-fatbin: " words > "/dev/stderr"; faults++ }
  function number(text, after) { return match(text, "[0-9]+ " after) ? substr(text, RSTART) + 0 : 0 }
  FNR == 1 {
    name = FILENAME
    sub(/^.*\//, "", name)
    sub(/\.log$/, "", name)
    split(name, part, ".")
    kernel = ""
  }
  /warning/ { fault(name ": " $0) }
  /Compiling entry function/ { split($0, quoted, "\047"); kernel = quoted[2] }
  / bytes stack frame/ && kernel != "" {
    stack = number($0, "bytes stack frame")
    spills = number($0, "bytes spill stores") + number($0, "bytes spill loads")
  }
  /Used [0-9]+ registers/ && kernel != "" {
    match($0, /Used [0-9]+/)
    registers = substr($0, RSTART + 5, RLENGTH - 5)
    shared = number($0, "bytes smem")
    id = part[1] " " kernel
    row[id, part[2]] = registers (stack ? "/" stack : "") (spills ? "!" spills : "")
    if (!(id in most)) order[++rows] = id
    if (shared >= most[id]) most[id] = shared
    if (part[2] == "sm_90" && spills) fault(name ": " kernel " spills " spills " bytes")
    if (shared > 49152) fault(name ": " kernel " has " shared " bytes of static shared memory")
    kernel = ""
  }
  END {
    if (!rows) fault("no kernel in the logs")
    targets = split("sm_80 sm_90 sm_100 sm_120", target, " ")
    print "Registers a thread on each target, /bytes of stack, !bytes of spills; static shared memory."
    printf "%-12s %-28s", "part", "kernel"
    for (t = 1; t <= targets; ++t) printf " %10s", target[t]
    print "   shared"
    fflush()
    for (i = 1; i <= rows; ++i) {
      split(order[i], words, " ")
      line = sprintf("%-12s %-28s", words[1], words[2])
      for (t = 1; t <= targets; ++t) line = line sprintf(" %10s", row[order[i], target[t]])
      printf "%s %8d\n", line, most[order[i]] | "LC_ALL=C sort"
    }
    close("LC_ALL=C sort")
    exit faults > 0
  }' "$@"
