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
$(NATIVE_OBJECTS)/packed_bf16.o: CXX_ISA := $(ISA_v4) -mavx512bf16 -ffp-contract=off

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
# Two compute modes (block.h: bf16, and f32 with -DACT_IS_FLOAT), each in two fatbins: contraction to fma is
# chosen for a whole compilation, and the files of EXACT do without. What nvcc compiles is the one text of
# concat.sh that is embedded for NVRTC as well. Without nvcc the fatbins are empty, and the executable relies
# on the NVRTC of the machine that it runs on.
#
# sm_80 code serves 86 and 89 as well, sm_100 and sm_120 their later steppings; PTX of 80 all that is newer.

GPU := build/gpu
GPU_MODES := bf16 f32
GPU_TARGETS := 80 90 100 120
GPU_PTX := 80
GPU_PARTS := $(GPU_MODES) $(GPU_MODES:%=%_exact)
FATBINS := $(GPU_PARTS:%=build/microdiff_%.fatbin)
KERNEL_TEXTS := build/kernels.cu build/kernels_exact.cu
GPU_LOGS := $(foreach part,$(GPU_PARTS),$(GPU_TARGETS:%=$(GPU)/$(part).sm_%.log))
EXACT_KERNELS := $(filter $(EXACT:%=cuda/%.cu),$(NATIVE_KERNELS))
NVCC_ALL := -std=c++17 -O3 --expt-relaxed-constexpr --diag-suppress 177
# ptxas and fatbinary lie where nvcc itself does, which may be found through a script of that name.
NVCC_BIN = $(shell $(NVCC) --dryrun -x cu /dev/null 2>&1 | sed -n 's/^\#\$$ _HERE_=//p')

# Compiles all and holds the kernels to the rules of check-fatbin.sh; the table stays in build/fatbin.txt.
.PHONY: fatbin
fatbin: $(FATBINS) build/fatbin.txt

build/kernels.cu: TEXTS = $(filter-out $(EXACT_KERNELS),$(NATIVE_KERNELS))
build/kernels_exact.cu: TEXTS = $(EXACT_KERNELS)
$(KERNEL_TEXTS): $(NATIVE_KERNELS) $(wildcard cuda/*.h) cuda/concat.sh cuda/build.mk
	sh cuda/concat.sh $(TEXTS) > $@

# Changes when nvcc comes, goes or is another.
$(GPU)/nvcc: FORCE
	@mkdir -p $(GPU)
	@{ $(or $(NVCC),echo none) --version; } | cmp -s - $@ || { $(or $(NVCC),echo none) --version; } > $@
.PHONY: FORCE
FORCE:

ifeq ($(NVCC),)

$(FATBINS) build/fatbin.txt &: $(GPU)/nvcc
	for file in $(FATBINS) build/fatbin.txt; do : > $$file; done
	echo 'nvcc was not found: no GPU code is embedded, GPUs will need NVRTC' >&2

else

# $(1) part, $(2) target
define GPU_OBJECT
$(GPU)/$(1).sm_$(2).ptx: build/kernels$(if $(findstring exact,$(1)),_exact).cu $(GPU)/nvcc cuda/build.mk
	@echo "nvcc $(1) sm_$(2)"
	$(NVCC) $(NVCC_ALL) -fmad=$(if $(findstring exact,$(1)),false,true) \
	  $(if $(findstring f32,$(1)),-DACT_IS_FLOAT) -ptx -arch=compute_$(2) $$< -o $$@ 2> $$@.log || \
	  { cat $$@.log >&2; exit 1; }
$(GPU)/$(1).sm_$(2).cubin $(GPU)/$(1).sm_$(2).log &: $(GPU)/$(1).sm_$(2).ptx
	$$(NVCC_BIN)/ptxas -v -arch=sm_$(2) $$< -o $(GPU)/$(1).sm_$(2).cubin > $(GPU)/$(1).sm_$(2).log 2>&1 || \
	  { cat $(GPU)/$(1).sm_$(2).log >&2; exit 1; }
	cat $$<.log >> $(GPU)/$(1).sm_$(2).log
endef
$(foreach part,$(GPU_PARTS),$(foreach target,$(GPU_TARGETS),$(eval $(call GPU_OBJECT,$(part),$(target)))))

build/microdiff_%.fatbin: $(GPU_TARGETS:%=$(GPU)/\%.sm_%.cubin) $(GPU)/%.sm_$(GPU_PTX).ptx
	$(NVCC_BIN)/fatbinary --create=$@ -64 --compress-mode=size \
	  $(foreach target,$(GPU_TARGETS),--image3=kind=elf,sm=$(target),file=$(GPU)/$*.sm_$(target).cubin) \
	  --image3=kind=ptx,sm=$(GPU_PTX),file=$(GPU)/$*.sm_$(GPU_PTX).ptx

build/fatbin.txt: $(GPU_LOGS) cuda/check-fatbin.sh
	sh cuda/check-fatbin.sh $(GPU_LOGS) > $@

endif

-include $(wildcard $(NATIVE_OBJECTS)/*.d)
