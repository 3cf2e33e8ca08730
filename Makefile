# The build: `make` alone prints the targets and what this machine has; every other target first
# runs the set-up (.ci/setup), which installs what is missing and does nothing when nothing is.
#
# Rooms with rules of their own: cuda/build.mk (native library, GPU kernels), src/data/build.mk (image pack),
# test/sim/build.mk (emulated kernels), test/sim/libraries.mk (stand-in driver and libraries).

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: help build test test-sim fuzz quickstart gpu-check gpu-pack dist lint style types clean

BUN := build/bin/bun
export PATH := $(CURDIR)/build/bin:$(PATH)
# Some machines set it; it would choose OpenBLAS's kernels in place of the CPU's own features.
unexport OPENBLAS_CORETYPE
# Recipes say in a word what they do; `make V=1` shows the commands.
ifndef V
.SILENT:
endif

# The set-up is an included file: when it is out of date, make runs its rule and then starts anew, so that
# everything below sees what was installed.
ifneq ($(filter-out help clean,$(MAKECMDGOALS)),)
include build/setup.mk
endif
build/setup.mk: package.json bun.lock .ci/setup
	sh .ci/setup
	echo '# The set-up of .ci/setup is done.' > $@

include cuda/build.mk
include src/data/build.mk
include test/sim/build.mk
include test/sim/libraries.mk
NATIVE := build/libmicrodiff.so build/libmicrodiff_f64.so # the second, in float64, is for tests
EMBEDDED := build/libmicrodiff.so build/emoji.pack $(FATBINS) $(KERNEL_TEXTS)
# What goes into the executable: an embedded file is a source like any other.
SOURCES := $(shell find src ffi recipes weights -type f 2>/dev/null) package.json bun.lock LICENSE
include test/gpu/build.mk
TESTED := $(NATIVE) $(EMBEDDED) $(SIM) $(STAND_INS) $(GPU_CHECK)

##@ Targets

help: ## this page
	awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	echo
	echo 'This machine'
	sh .ci/setup found

build: dist/microdiff ## the kernels and the one executable, dist/microdiff

test: $(TESTED) ## every test that this machine can run, and what was skipped
	$(BUN) test/run.ts null cpu sim browser gpu

test-sim: $(TESTED) ## the CUDA path without a GPU, against stand-ins
	$(BUN) test/run.ts sim

fuzz: ## readers of files that others wrote, with made-up damage, FUZZ_SECONDS long (30)
	$(BUN) test/fuzz/run.ts --seconds $(or $(FUZZ_SECONDS),30)

quickstart: dist/microdiff ## train a small model on the embedded images, about five minutes, and draw samples
	dist/microdiff quickstart $(QUICKSTART_FLAGS)

gpu-check: $(NATIVE) $(EMBEDDED) $(GPU_CHECK) ## check this build on the GPU of this machine
	sh test/gpu/check.sh $(GPU_CHECK_STEPS)

gpu-pack: $(addprefix $(GPU_PACK)/,bun.xz app.tar.xz goldens.tar.xz) ## pack what a GPU box needs for it
	cp test/gpu/check.sh $(GPU_PACK)/
	cat $(GPU_PACK)/*.xz | sha256sum | cut -c1-16 > $(GPU_PACK)/version
	sh test/gpu/pack-size.sh $(GPU_PACK)

dist: dist/microdiff ## the executable with its size and checksum, ready to copy
	cd dist && sha256sum microdiff > microdiff.sha256
	echo "dist/microdiff  $$(( $$(stat -c %s dist/microdiff) / 1048576 )) MiB"
	cat dist/microdiff.sha256

lint: style types ## biome (style and mistakes) and tsc (types)

style:
	$(BUN) node_modules/@biomejs/biome/bin/biome ci --error-on-warnings

types:
	$(BUN) node_modules/typescript/bin/tsc --noEmit

clean: ## remove build/ and dist/; node_modules/ and runs/ stay
	rm -rf build dist

##@ The executable

# The settings of the folder it is started in must not reach it, hence the two --no-compile flags. Programs of
# Workers are entry points of their own.
dist/microdiff: $(SOURCES) $(EMBEDDED) Makefile
	mkdir -p dist
	echo "bun build --compile $@"
	$(BUN) build --compile --sourcemap=none --no-compile-autoload-bunfig --no-compile-autoload-dotenv \
	  src/cli/main.ts src/data/stream/bring-worker.ts src/data/stream/picture-worker.ts \
	  src/prepare/decode-worker.ts src/train/checkpoint-worker.ts --outfile $@
