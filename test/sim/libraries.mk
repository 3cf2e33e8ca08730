# Builds the stand-in libraries of test/sim: driver, cuBLASLt, cuDNN, NCCL and NVRTC, under the names that are
# looked for. Included by the Makefile. They end in build/sim alone: nothing of the product depends on them.

STAND_IN_CXX := $(CXX) -std=c++17 -O2 -march=x86-64-v3 -fPIC -fvisibility=hidden -Wall -Wextra -Werror \
	-MMD -MP
STAND_INS := build/sim/libcuda.so.1 build/sim/libcublasLt.so.13 build/sim/libcudnn.so.9 \
	build/sim/libnccl.so.2 build/sim/libnvrtc.so.13 build/sim/kernels_broken.so
DRIVER_OBJECTS := $(patsubst test/sim/libcuda/%.cpp,build/sim/libcuda/%.o,$(wildcard test/sim/libcuda/*.cpp))

build/sim/libcuda/%.o: test/sim/libcuda/%.cpp test/sim/libraries.mk
	@mkdir -p $(@D)
	@echo "c++ $@"
	$(STAND_IN_CXX) -c $< -o $@

build/sim/libcuda.so.1: $(DRIVER_OBJECTS)
	@echo "link $@"
	$(CXX) -shared -Wl,-soname,libcuda.so.1 -Wl,-z,defs $^ -ldl -o $@

# The others find the driver beside them, the same one that the program has opened.
build/sim/libcublasLt.so.13: test/sim/libcublaslt.cpp build/sim/libcuda.so.1
	@echo "c++ $@"
	$(STAND_IN_CXX) -O3 -shared -Wl,-soname,$(@F) -Wl,-rpath,'$$ORIGIN' -Wl,-z,defs $< build/sim/libcuda.so.1 \
	  -o $@

build/sim/libcudnn.so.9: test/sim/libcudnn.cpp build/sim/libcuda.so.1
	@echo "c++ $@"
	$(STAND_IN_CXX) -O3 -shared -Wl,-soname,$(@F) -Wl,-rpath,'$$ORIGIN' -Wl,-z,defs $< build/sim/libcuda.so.1 \
	  -o $@

build/sim/libnccl.so.2: test/sim/libnccl.cpp build/sim/libcuda.so.1
	@echo "c++ $@"
	$(STAND_IN_CXX) -shared -Wl,-soname,$(@F) -Wl,-rpath,'$$ORIGIN' -Wl,-z,defs $< build/sim/libcuda.so.1 \
	  -lrt -o $@

build/sim/libnvrtc.so.13: test/sim/libnvrtc.cpp
	@echo "c++ $@"
	$(STAND_IN_CXX) -shared -Wl,-soname,$(@F) -Wl,-z,defs $< -o $@

# Kernels with mistakes, in fp32, for the tests of the stand-ins.
build/sim/broken/broken.o: test/sim/broken/broken.cu test/sim/libraries.mk
	@mkdir -p $(@D)
	@echo "c++ $@"
	$(CXX) $(SIM_CXX_ALL) -iquote test/sim/broken -iquote cuda -DACT_IS_FLOAT -MMD -MP \
	  -DKERNEL_SOURCE='"broken.cu"' -x c++ -c cuda/kernel_unit.h -o $@
build/sim/kernels_broken.so: build/sim/broken/broken.o $(SIM_EMULATOR)
	@echo "link $@"
	$(CXX) -shared -Wl,-z,defs $^ -o $@

-include $(wildcard build/sim/libcuda/*.d build/sim/*.d)
