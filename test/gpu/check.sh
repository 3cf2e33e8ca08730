#!/bin/sh
# Checks microdiff on the GPU of this machine; no compiler and no network are needed.
#   sh check.sh [--out FOLDER] [step ...]
# Steps: doctor kernels goldens graph sanitizer bench peer; none named: all. The results are
# FOLDER/gpu-check.json and a table on stdout; logs lie beside. Works from the folder of `make gpu-pack` as
# well as from the built sources. Exit codes: 0 all passed, 1 something failed, 3 no GPU here.
set -eu
here=$(cd "$(dirname "$0")" && pwd)

# MICRODIFF_CUDA_PATH may name a folder with another libcuda (the tests' stand-in).
stand_in=${MICRODIFF_CUDA_PATH:-/nowhere}/libcuda.so.1
if [ ! -e /dev/nvidiactl ] && [ ! -e /dev/dxg ] && [ ! -e "$stand_in" ]; then
  echo 'gpu-check: no NVIDIA GPU here (/dev/nvidiactl is missing): run it on a machine that has one' >&2
  exit 3
fi

unpack() {
  if command -v xz >/dev/null; then
    xz -dc "$1"
  else
    python3 -c 'import lzma, shutil, sys; shutil.copyfileobj(lzma.open(sys.argv[1]), sys.stdout.buffer)' "$1"
  fi
}

if [ -e "$here/bun.xz" ]; then
  app=${MICRODIFF_CHECK_FOLDER:-${TMPDIR:-/tmp}/microdiff-gpu-check-$(id -u)}
  if ! cmp -s "$here/version" "$app/version"; then
    rm -rf "$app"
    mkdir -p "$app"
    unpack "$here/app.tar.xz" | tar -xf - -C "$app"
    unpack "$here/bun.xz" >"$app/bun"
    if [ -e "$here/goldens.tar.xz" ]; then
      unpack "$here/goldens.tar.xz" | tar -xf - -C "$app"
    else # left out of what travels, since a checkout came along
      mkdir -p "$app/test/goldens"
      cp -r "$here/../../test/goldens/microdit" "$app/test/goldens/"
    fi
    chmod +x "$app/bun"
    cp "$here/version" "$app/version"
  fi
  # Bundled code knows its files by relative paths.
  export MICRODIFF_NATIVE="$app/libmicrodiff.so" MICRODIFF_GPU_CODE="${MICRODIFF_GPU_CODE:-$app}"
  exec "$app/bun" "$app/test/gpu/check.js" "$@"
fi
cd "$here/../.."
exec build/bin/bun test/gpu/check.ts "$@"
