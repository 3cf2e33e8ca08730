#!/bin/sh
# One source out of many, for compilers without a file system (NVRTC) and, the very same, for nvcc:
#   sh cuda/concat.sh cuda/act.cu cuda/norm.cu > all.cu
# First the headers of this folder, each once, those they need before them; then each .cu in a namespace of
# its own, as on the CPU. Includes of the system and of other folders stay as they are: the headers guard
# them. #line keeps the file names and line numbers of messages.
set -eu
cd "$(dirname "$0")"
for file in "$@"; do basename "$file"; done | awk '
  function here(name) { return (getline line < name) >= 0 ? close(name) + 1 : 0 }
  function included(text) {
    if (text !~ /^#include "/) return ""
    split(text, part, "\"")
    return here(part[2]) ? part[2] : ""
  }
  # The lines of a file; its headers are there already (headers = 0) or come first.
  function emit(name, headers,    text) {
    if (headers && (name in done)) return
    done[name] = 1
    if (headers) visit(name)
    printf "#line 1 \"cuda/%s\"\n", name
    while ((getline text < name) > 0) {
      if (included(text) != "" || text == "#pragma once") text = ""
      print text
    }
    close(name)
  }
  # Emits the headers that a file includes; collected first, for awk has one place in a file of one name.
  function visit(name,    text, list, count, i) {
    while ((getline text < name) > 0) if (included(text) != "") list[++count] = included(text)
    close(name)
    for (i = 1; i <= count; ++i) emit(list[i], 1)
  }
  { unit[++units] = $0 }
  END {
    print "// Made by cuda/concat.sh from the files that #line names."
    for (i = 1; i <= units; ++i) visit(unit[i])
    for (i = 1; i <= units; ++i) {
      space = unit[i]
      sub(/\.cu$/, "_cu", space)
      printf "namespace %s {\n", space
      emit(unit[i], 0)
      print "}"
    }
  }'
