# vfio-emu.mk: builds the test server (README.md here) as build/vfio-emu, or in the folder of the
# variant. Included by the Makefile. Its objects but main.o are also part of the unit tests.

ESRC := $(sort $(wildcard tests/emulated/*.c))
EOBJ := $(ESRC:%.c=$B/obj/%.o)
ELIB := $(filter-out $B/obj/tests/emulated/main.o,$(EOBJ))

emu: $B/vfio-emu

$B/vfio-emu: $(EOBJ)
	@echo '  LD    $@'
	$Q$(CC) $(CFLAGS) $(SAN) -o $@ $^ $(LDFLAGS)

$B/unit-tests: $(ELIB)

# For `make lint` and `make format`.
SRC += $(ESRC)
HDR += $(wildcard tests/emulated/*.h)

-include $(EOBJ:.o=.d)

.PHONY: emu
