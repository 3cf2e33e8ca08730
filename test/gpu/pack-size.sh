#!/bin/sh
# Fails when the pack is over 44 MiB, or, without the goldens, which a checkout has, over 62 MiB together with
# everything that git tracks: what travels with a checkout must stay small.
#   sh test/gpu/pack-size.sh build/gpu-pack
set -eu
mib=1048576
pack=$(cat "$1"/* | wc -c)
goldens=$(wc -c <"$1/goldens.tar.xz")
tracked=$(git ls-files -z | xargs -0 cat | wc -c)
tenths() { echo "$(($1 * 10 / mib / 10)).$(($1 * 10 / mib % 10)) MiB"; }
beside=$((pack - goldens + tracked))
echo "$1: $(tenths "$pack"); without goldens, with the tracked files: $(tenths $beside)"
if [ "$pack" -gt $((44 * mib)) ]; then
  echo 'gpu-pack: the pack is over 44 MiB' >&2
  exit 1
fi
if [ "$beside" -gt $((62 * mib)) ]; then
  echo 'gpu-pack: pack without goldens and tracked files are over 62 MiB' >&2
  exit 1
fi
