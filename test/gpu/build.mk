# What `make gpu-check` needs beside the program, and the pack for a machine that has nothing but a GPU.
# Included by the Makefile.

GPU_PACK := build/gpu-pack
GPU_PACK_APP := build/gpu/app
GPU_PACK_SCRIPTS := src/cli/main.ts test/gpu/check.ts test/gpu/dump.ts test/gpu/kernels.test.ts
GPU_CHECK := build/gpu/runner build/gpu/gemm.fatbin

build/gpu/runner: test/gpu/runner.c
	@mkdir -p $(@D)
	@echo "cc $@"
	$(CC) -O1 -g -Wall -Wextra -Werror $< -ldl -o $@

build/gpu/gemm.fatbin: test/gpu/gemm.cu cuda/block.h $(GPU)/nvcc
	@mkdir -p $(@D)
	$(if $(NVCC),$(NVCC) $(NVCC_ALL) -fatbin -arch=sm_80 $< -o $@,: > $@)

# The same products under the emulator, for the test of the runner.
STAND_INS += build/sim/kernels_gemm.so
build/sim/gemm/gemm.o: test/gpu/gemm.cu test/gpu/build.mk
	@mkdir -p $(@D)
	@echo "c++ $@"
	$(CXX) $(SIM_CXX_ALL) -iquote test/gpu -iquote cuda -MMD -MP -MT $@ -MF $@.d \
	  -DKERNEL_SOURCE='"gemm.cu"' -x c++ -c cuda/kernel_unit.h -o $@
build/sim/kernels_gemm.so: build/sim/gemm/gemm.o $(SIM_EMULATOR)
	@echo "link $@"
	$(CXX) -shared -Wl,-z,defs $^ -o $@

# Without canvas (external), emoji and weights, which no step needs. BCJ for x86 takes 3 % off Bun.
$(GPU_PACK)/bun.xz: build/bin/bun
	@mkdir -p $(@D)
	@echo "xz $@ (minutes)"
	xz -T1 --x86 --lzma2=preset=6,dict=64MiB -c $< > $@

$(GPU_PACK)/app.tar.xz: $(SOURCES) $(EMBEDDED) $(GPU_CHECK) bench/peer_torch.py \
    $(wildcard test/gpu/* test/cpu/*)
	@mkdir -p $(@D)
	rm -rf $(GPU_PACK_APP)
	$(BUN) build --target=bun --external=@napi-rs/canvas --outdir=$(GPU_PACK_APP) --root=. \
	  --asset-naming='[name].[ext]' $(GPU_PACK_SCRIPTS) \
	  > $(GPU)/bundle.log || { cat $(GPU)/bundle.log >&2; exit 1; }
	rm -f $(GPU_PACK_APP)/emoji.*
	mkdir -p $(GPU_PACK_APP)/bench
	cp bench/peer_torch.py $(GPU_PACK_APP)/bench/
	cp build/gpu/runner $(GPU_PACK_APP)/
	tar -C $(GPU_PACK_APP) -c . | xz -6 > $@

# By themselves: a machine that is lent out with a checkout has them already.
$(GPU_PACK)/goldens.tar.xz: $(wildcard test/goldens/microdit/*)
	@mkdir -p $(@D)
	tar -c test/goldens/microdit | xz -6 > $@
