# Builds what stands in for a GPU in tests: the kernels of cuda/*.cu in their GPU form, compiled with g++
# and run by the emulator, a library for each compute mode, and the emulator's own check. Included by the
# Makefile.

SIM_CXX_ALL := -std=c++17 -O2 -fPIC -fvisibility=hidden -fno-exceptions -fno-rtti -fno-math-errno \
	-fno-trapping-math -march=x86-64-v3 -Wall -Wextra -Werror -Wno-unknown-pragmas -Wno-unused-function \
	-DMD_EMULATED -Itest/sim
SIM_MODES := bf16 f32
SIM_bf16 :=
SIM_f32 := -DACT_IS_FLOAT
SIM_EMULATOR := build/sim/emulator.o build/sim/emulator-warp.o
SIM := $(SIM_MODES:%=build/sim/kernels_%.so) build/sim/emulator-check build/sim/attention-check

define SIM_MODE
build/sim/$(1)/%.o: cuda/%.cu test/sim/build.mk
	@mkdir -p $$(@D)
	@echo "c++ $$@"
	$$(CXX) $$(SIM_CXX_ALL) $$(SIM_$(1)) -ffp-contract=$$(call contract,$$*) -MMD -MP -MT $$@ -MF $$@.d \
		-DKERNEL_SOURCE='"$$*.cu"' -x c++ -c cuda/kernel_unit.h -o $$@

build/sim/kernels_$(1).so: $$(NATIVE_KERNELS:cuda/%.cu=build/sim/$(1)/%.o) $$(SIM_EMULATOR)
	@echo "link $$@"
	$$(CXX) -shared -Wl,-z,defs $$^ -o $$@
endef
$(foreach mode,$(SIM_MODES),$(eval $(call SIM_MODE,$(mode))))

build/sim/%.o: test/sim/%.cpp test/sim/build.mk
	@mkdir -p $(@D)
	@echo "c++ $@"
	$(CXX) $(SIM_CXX_ALL) -ffp-contract=fast -MMD -MP -MT $@ -MF $@.d -c $< -o $@

build/sim/attention-check: build/sim/bf16/attention_mma.o
build/sim/%-check: build/sim/%-check.o $(SIM_EMULATOR)
	@echo "link $@"
	$(CXX) $^ -o $@

# Kept: tests link them anew.
.SECONDARY: build/sim/emulator-check.o build/sim/attention-check.o

-include $(wildcard build/sim/*.d build/sim/*/*.d)
