#!/bin/sh
# Fails if a shared library needs more than glibc 2.31 or any library beside glibc's own. Usage:
# check-glibc.sh FILE
set -eu
file=$1
newest=$(objdump -T "$file" | grep -o 'GLIBC_[0-9.]*' | sort -u -V | tail -n 1)
last=$(printf '%s\nGLIBC_2.31\n' "$newest" | sort -V | tail -n 1)
if [ "$last" != GLIBC_2.31 ]; then
  echo "$file needs $newest, more than GLIBC_2.31:" >&2
  objdump -T "$file" | grep -F "$newest" >&2
  exit 1
fi
other=$(objdump -p "$file" | awk '$1 == "NEEDED" { print $2 }' |
  grep -v -E '^(libc\.so\.6|libm\.so\.6|libpthread\.so\.0|libdl\.so\.2|ld-linux-x86-64\.so\.2)$' || true)
if [ -n "$other" ]; then
  echo "$file needs libraries beside glibc's: $other" >&2
  exit 1
fi
