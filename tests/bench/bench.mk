# bench.mk: builds what `make bench` measures with (tests/bench/bench.sh) into build/bench/.
# Included by the Makefile.

BENCH := build/bench

$(BENCH)/%: tests/bench/%.c
	@mkdir -p $(@D)
	$Q$(CC) $(CSTD) $(WARN) $(CFLAGS) -o $@ $<

$(BENCH)/first.elf: tests/bench/first.S
	@mkdir -p $(@D)
	$Q$(CC) $(GLINK) -Wl,-Ttext=0x200000 -o $@ $<

$(BENCH)/first.bin: $(BENCH)/first.elf
	$Qobjcopy -O binary -j .text $< $@

$(BENCH)/device.o: tests/bench/device.c tests/guests/lib.h
	@mkdir -p $(@D)
	$Q$(CC) -I. $(GCFLAGS) $(WARN) -c -o $@ $<

$(BENCH)/device.elf: $(BENCH)/device.o $G/start.o $G/lib.o $G/pc.o $(GSRC)/pvh.ld
	$Q$(CC) $(GLINK) -Wl,-T,$(GSRC)/pvh.ld -o $@ $(filter %.o,$^)

bench: all emu guests $(BENCH)/run $(BENCH)/bare $(BENCH)/first.elf $(BENCH)/first.bin $(BENCH)/device.elf
	tests/bench/bench.sh

# For `make lint` and `make format`.
SRC += tests/bench/bare.c tests/bench/run.c

.PHONY: bench
