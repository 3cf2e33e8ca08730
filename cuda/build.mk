# Builds the native library and the GPU kernels; included by the Makefile, or used alone: make -f
# cuda/build.mk native. New cuda/*.cu and cuda/*.cpp files are picked up by name.

# One job a core, unless the command line says otherwise.
ifeq ($(filter -j%,$(MAKEFLAGS)),)
MAKEFLAGS += -j$(shell nproc 2>/dev/null || echo 2)
endif

# The C driver links, so that libstdc++ cannot slip in.
CXX ?= g++
CC ?= cc
NVCC ?= $(shell command -v nvcc 2>/dev/null)
OPENBLAS_DIR ?= /usr/lib/x86_64-linux-gnu/openblas-serial
OPENBLAS_INCLUDE ?= /usr/include/x86_64-linux-gnu/openblas-serial

NATIVE_KERNELS := $(sort $(wildcard cuda/*.cu))
NATIVE_SOURCES := $(sort $(wildcard cuda/*.cpp))
NATIVE_OBJECTS := build/native

# No -ffast-math: sums keep their order, NaN and infinity their meaning. Without errno and traps g++ may
# vectorise sqrt, comparisons and selects.
CXX_ALL := -std=c++17 -O3 -fPIC -fvisibility=hidden -fno-exceptions -fno-rtti -fno-threadsafe-statics \
	-ffunction-sections -fdata-sections -fno-math-errno -fno-trapping-math -fopenmp-simd \
	-Wall -Wextra -Werror -Wno-unknown-pragmas -Wno-unused-function
# Random numbers must have equal bits on every compiler: these files are built without contraction to fma.
EXACT := random rng philox
contract = $(if $(filter $(EXACT),$(1)),off,fast)

ISA_v3 := -march=x86-64-v3
ISA_v4 := -march=x86-64-v4 -mprefer-vector-width=512 -DMD_ISA_V4

LINK_NATIVE := -shared -static-libgcc -Wl,--gc-sections -Wl,--exclude-libs,ALL -Wl,-z,defs \
	-Wl,-z,noexecstack -Wl,-z,relro -Wl,--build-id=none -s \
	-Wl,--wrap=blas_memory_alloc -Wl,--wrap=blas_memory_free

V3 := $(patsubst cuda/%.cu,$(NATIVE_OBJECTS)/%.v3.o,$(NATIVE_KERNELS))
V4 := $(patsubst cuda/%.cu,$(NATIVE_OBJECTS)/%.v4.o,$(NATIVE_KERNELS))
F64 := $(patsubst cuda/%.cu,$(NATIVE_OBJECTS)/%.f64.o,$(NATIVE_KERNELS))
PLAIN := $(patsubst cuda/%.cpp,$(NATIVE_OBJECTS)/%.o,$(NATIVE_SOURCES))
SOURCES_F64 := $(filter-out cuda/packed_%,$(NATIVE_SOURCES))
PLAIN_F64 := $(patsubst cuda/%.cpp,$(NATIVE_OBJECTS)/%.plain64.o,$(SOURCES_F64))

$(NATIVE_OBJECTS)/packed_v3.o: CXX_ISA := $(ISA_v3) -ffp-contract=off
$(NATIVE_OBJECTS)/packed_v4.o: CXX_ISA := $(ISA_v4) -ffp-contract=off

.PHONY: native
native: build/libmicrodiff.so build/libmicrodiff_f64.so

$(NATIVE_OBJECTS)/%.v3.o: cuda/%.cu cuda/build.mk | $(NATIVE_OBJECTS)
	@echo "c++ $@"
	$(CXX) $(CXX_ALL) -ffp-contract=$(call contract,$*) $(ISA_v3) -MMD -MP -MT $@ -MF $@.d \
		-DKERNEL_SOURCE='"$*.cu"' -x c++ -c cuda/kernel_unit.h -o $@

$(NATIVE_OBJECTS)/%.v4.o: cuda/%.cu cuda/build.mk | $(NATIVE_OBJECTS)
	@echo "c++ $@"
	$(CXX) $(CXX_ALL) -ffp-contract=$(call contract,$*) $(ISA_v4) -MMD -MP -MT $@ -MF $@.d \
		-DKERNEL_SOURCE='"$*.cu"' -x c++ -c cuda/kernel_unit.h -o $@

$(NATIVE_OBJECTS)/%.f64.o: cuda/%.cu cuda/build.mk | $(NATIVE_OBJECTS)
	@echo "c++ $@"
	$(CXX) $(CXX_ALL) -ffp-contract=$(call contract,$*) $(ISA_v3) -DREAL_IS_DOUBLE -MMD -MP -MT $@ -MF $@.d \
		-DKERNEL_SOURCE='"$*.cu"' -x c++ -c cuda/kernel_unit.h -o $@

$(NATIVE_OBJECTS)/%.o: cuda/%.cpp cuda/build.mk | $(NATIVE_OBJECTS)
	@echo "c++ $@"
	$(CXX) $(CXX_ALL) $(CXX_ISA) -DMD_WITH_V4 -I$(OPENBLAS_INCLUDE) -MMD -MP -MT $@ -MF $@.d -c $< -o $@

$(NATIVE_OBJECTS)/%.plain64.o: cuda/%.cpp cuda/build.mk | $(NATIVE_OBJECTS)
	@echo "c++ $@"
	$(CXX) $(CXX_ALL) -DREAL_IS_DOUBLE -I$(OPENBLAS_INCLUDE) -MMD -MP -MT $@ -MF $@.d -c $< -o $@

build/libmicrodiff.so: $(PLAIN) $(V3) $(V4) cuda/check-glibc.sh
	@echo "link $@"
	$(CC) $(LINK_NATIVE) $(PLAIN) $(V3) $(V4) -L$(OPENBLAS_DIR) -l:libopenblas.a -lm -o $@.new
	sh cuda/check-glibc.sh $@.new
	mv $@.new $@

build/libmicrodiff_f64.so: $(PLAIN_F64) $(F64)
	@echo "link $@"
	$(CC) $(LINK_NATIVE) $(PLAIN_F64) $(F64) -L$(OPENBLAS_DIR) -l:libopenblas.a -lm -o $@

$(NATIVE_OBJECTS):
	mkdir -p $@

# ---- GPU kernels -----------------------------------------------------------------------------------------
# Each .cu lies in a namespace of its own, as on the CPU; kernels are extern "C". Files of EXACT go to a
# second fatbin, because contraction is chosen for a whole compilation.

NVCC_ALL := -std=c++17 -O3 --expt-relaxed-constexpr -Xcudafe --diag_suppress=177
CUDA_TARGETS := -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90,code=sm_90 \
	-gencode arch=compute_100,code=sm_100 -gencode arch=compute_120,code=[sm_120,compute_120]
EXACT_KERNELS := $(filter $(EXACT:%=cuda/%.cu),$(NATIVE_KERNELS))

.PHONY: fatbin
fatbin: build/microdiff.fatbin build/microdiff_exact.fatbin

build/microdiff.fatbin: CUDA_SOURCES = $(filter-out $(EXACT_KERNELS),$(NATIVE_KERNELS))
build/microdiff.fatbin: FMAD = true
build/microdiff_exact.fatbin: CUDA_SOURCES = $(EXACT_KERNELS)
build/microdiff_exact.fatbin: FMAD = false

build/microdiff.fatbin build/microdiff_exact.fatbin: $(NATIVE_KERNELS) $(wildcard cuda/*.h) cuda/build.mk
	@mkdir -p $(NATIVE_OBJECTS)
	@test -n "$(NVCC)" || { echo "nvcc was not found: $@ cannot be built" >&2; exit 1; }
	{ echo '#include "$(CURDIR)/cuda/block.h"'; echo '#include "$(CURDIR)/cuda/math.h"'; \
	  for f in $(CUDA_SOURCES); do echo "namespace $$(basename $$f .cu)_cu {"; \
	    echo "#include \"$(CURDIR)/$$f\""; echo '}'; done; } > $(NATIVE_OBJECTS)/$(basename $(notdir $@)).cu
	@echo "nvcc $@"
	$(NVCC) $(NVCC_ALL) -fmad=$(FMAD) $(CUDA_TARGETS) -fatbin $(NATIVE_OBJECTS)/$(basename $(notdir $@)).cu -o $@

-include $(wildcard $(NATIVE_OBJECTS)/*.d)
