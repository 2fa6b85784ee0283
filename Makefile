# minivmm. `make demo` and `make check` set up what they need; everything else builds with what
# is there. Products and logs are under build/; downloads and kernels under ~/.cache/minivmm.
#
#   make [CC=clang] [STATIC=1] [SANITIZE=1] [V=1]   build/minivmm; V=1 shows the commands
#   make demo | check | check-long            the main job; all tests; and those that take long
#   make demo-ci | bench                      emulated devices: the job in CI; figures
#   make unit | tiny | emulated | host        one kind of test
#   make lint | format | install | clean

PREFIX  ?= /usr/local
VERSION := 0.1.0
B       := build$(if $(STATIC),/static)$(if $(SANITIZE),/sanitize)$(if $(filter clang%,$(CC)),/clang)

ifeq ($(origin CC),default)
CC := $(if $(shell command -v gcc),gcc,clang)
endif

Q       := $(if $(V),,@)
CFLAGS  ?= -O2 -g
CSTD    := -std=gnu17 -D_GNU_SOURCE -I. -DMINIVMM_VERSION='"$(VERSION)"' -pthread
WARN    := -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -Wmissing-prototypes \
           -Wstrict-prototypes -Wvla -Wpointer-arith -Wundef -Werror
# A comma inside $(if ...) has to hide.
,       := ,
SAN     := $(if $(SANITIZE),-fsanitize=address$(,)undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
LDFLAGS += -pthread $(if $(STATIC),-static)

SRC   := $(sort $(wildcard vmm/*.c vfio/*.c devices/*.c devices/virtio/*.c boot/*.c))
OBJ   := $(SRC:%.c=$B/obj/%.o)
LIB   := $(filter-out $B/obj/vmm/main.o,$(OBJ))
UNIT  := $(sort $(wildcard tests/unit/*.c))
UOBJ  := $(UNIT:%.c=$B/obj/%.o)
EMU   := $(sort $(wildcard tests/emulated/*.[ch] tests/bench/*.c))
HDR   := $(sort $(wildcard vmm/*.h vfio/*.h devices/*.h devices/virtio/*.h boot/*.h tests/unit/*.h))

all: $B/minivmm

$B/minivmm: $(OBJ)
	@echo '  LD    $@'
	$Q$(CC) $(CFLAGS) $(SAN) -o $@ $^ $(LDFLAGS)

# The kernel's side of VFIO and vfio-user servers are played at the system-call boundary:
# tests/unit/fake_vfio_kernel.c, fake_vfio_server.c.
WRAP := $(sort $(shell grep -ohE '\b__wrap_[a-z0-9_]+' tests/unit/fake_*.c))

$B/unit-tests: $(UOBJ) $(LIB)
	@echo '  LD    $@'
	$Q$(CC) $(CFLAGS) $(SAN) $(WRAP:__wrap_%=-Wl,--wrap=%) -o $@ $^ $(LDFLAGS) -lcriterion

include tests/guests/guests.mk
include tests/emulated/vfio-emu.mk
include tests/bench/bench.mk

$B/obj/%.o: %.c Makefile
	@mkdir -p $(@D)
	@echo '  CC    $<'
	$Q$(CC) $(CSTD) $(WARN) $(CFLAGS) $(SAN) -MMD -MP -c -o $@ $<

-include $(OBJ:.o=.d) $(UOBJ:.o=.d)

unit: build/unit-tests
	build/unit-tests --timeout 60

tiny emulated cli host:
	tests/check.sh $@

check:
	tests/setup.sh build unit lint host
	tests/check.sh

check-long:
	$(MAKE) -s check LONG=1

demo-ci:
	tests/setup.sh build
	$(MAKE) -s all emu guests
	tests/demo-ci.sh

demo:
	tests/setup.sh build host
	$(MAKE) -s STATIC=1
	tests/host/demo.sh

# clang-tidy: a process for each file; version 14 loses track of va_start() in later ones.
# shellcheck does not see variables of files that are sourced (SC2034, SC2154).
lint:
	clang-format --dry-run --Werror $(SRC) $(UNIT) $(EMU) $(HDR)
	cppcheck -q --std=c11 --inline-suppr --error-exitcode=1 --suppress=missingIncludeSystem \
	    --enable=warning,performance,portability -D_GNU_SOURCE -DMINIVMM_VERSION='""' -I. $(SRC) $(filter tests/emulated/%.c,$(EMU))
	shellcheck -S warning -e SC2034,SC2154 .ci/run tests/*.sh tests/host/*.sh tests/emulated/*.sh tests/bench/*.sh
	printf '%s\n' $(SRC) | xargs -P "$$(nproc)" -I{} clang-tidy --quiet {} -- $(CSTD) $(WARN)

format:
	clang-format -i $(SRC) $(UNIT) $(EMU) $(HDR)

install: all
	install -D -m 755 $B/minivmm $(DESTDIR)$(PREFIX)/bin/minivmm
	install -D -m 644 vmm/minivmm.1 $(DESTDIR)$(PREFIX)/share/man/man1/minivmm.1

clean:
	rm -rf build

.PHONY: all guests unit tiny emulated cli host check check-long demo demo-ci lint format install clean
