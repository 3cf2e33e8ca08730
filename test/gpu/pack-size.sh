#!/bin/sh
# Fails when the pack is over 44 MiB, or over 62 MiB together with everything that git tracks: what is lent
# out with a checkout must stay small.
#   sh test/gpu/pack-size.sh build/gpu-pack
set -eu
mib=1048576
pack=$(cat "$1"/* | wc -c)
tracked=$(git ls-files -z | xargs -0 cat | wc -c)
tenths() { echo "$(($1 * 10 / mib / 10)).$(($1 * 10 / mib % 10)) MiB"; }
echo "$1: $(tenths "$pack"); with the tracked files: $(tenths $((pack + tracked)))"
if [ "$pack" -gt $((44 * mib)) ]; then
  echo 'gpu-pack: the pack is over 44 MiB' >&2
  exit 1
fi
if [ $((pack + tracked)) -gt $((62 * mib)) ]; then
  echo 'gpu-pack: pack and tracked files are over 62 MiB' >&2
  exit 1
fi
