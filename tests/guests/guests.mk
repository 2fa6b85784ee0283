# guests.mk: builds the tiny guests (README.md here) into build/guests/. Included by the
# Makefile; gcc or clang, the assembler and the linker are enough, x86-64 only. They are the
# same whatever the program is built with, so there is one folder for all variants.

G       := build/guests
GSRC    := tests/guests
GUESTS  := serial timer smp cpuid acpi pci ram ends hostile edu platform gpu wild huge vga virtio
HELLOS  := real.bin protected.bin long.bin vmlinux.elf multiboot1.elf multiboot2.elf addresses.bin
GCFLAGS := -std=gnu17 -O2 -g -m64 -ffreestanding -fno-pic -mno-red-zone -mgeneral-regs-only \
           -fno-stack-protector -fno-asynchronous-unwind-tables -fcf-protection=none
GLINK   := -m64 -nostdlib -static -no-pie -Wl,--build-id=none -Wl,-z,noexecstack \
           -Wl,-z,max-page-size=4096

guests: $(GUESTS:%=$G/%.elf) $(HELLOS:%=$G/hello-%) $G/platform.bin

$G/%.o: $(GSRC)/%.c $(GSRC)/guests.mk
	@mkdir -p $(@D)
	$(CC) $(GCFLAGS) $(WARN) -MMD -MP -c -o $@ $<

$G/%.o: $(GSRC)/%.S $(GSRC)/guests.mk
	@mkdir -p $(@D)
	$(CC) -m64 -c -o $@ $<

$G/%.elf: $G/%.o $G/start.o $G/lib.o $G/pc.o $(GSRC)/pvh.ld
	$(CC) $(GLINK) -Wl,-T,$(GSRC)/pvh.ld -o $@ $(filter %.o,$^)

# The same without ELF around it (start.S).
$G/%.bin: $G/%.elf
	objcopy -O binary $< $@

# hello: one source, three modes; the address is where `--entry` loads it.
$G/hello-real.o: DEFS := -DMODE=16
$G/hello-protected.o: DEFS := -DMODE=32
$G/hello-long.o: DEFS := -DMODE=64
$G/hello-vmlinux.o: DEFS := -DMODE=64 -DVMLINUX
$G/hello-real.flat: ADDR := 0
$G/hello-protected.flat $G/hello-long.flat: ADDR := 0x100000
$G/hello-vmlinux.elf: ADDR := 0x200000

# A kernel for GRUB, of both versions, and without ELF around it (by load addresses).
$G/hello-multiboot1.o: DEFS := -DVERSION=1
$G/hello-multiboot2.o: DEFS := -DVERSION=2
$G/hello-addresses.o: DEFS := -DVERSION=1 -DADDRESSES
$G/hello-multiboot1.elf $G/hello-multiboot2.elf: ADDR := 0x200000
$G/hello-addresses.flat: ADDR := 0x100000

$G/hello-multiboot1.o $G/hello-multiboot2.o $G/hello-addresses.o: $(GSRC)/multiboot.S $(GSRC)/guests.mk
	@mkdir -p $(@D)
	$(CC) -m64 $(DEFS) -c -o $@ $<

$G/hello-%.o: $(GSRC)/hello.S $(GSRC)/guests.mk
	@mkdir -p $(@D)
	$(CC) -m64 $(DEFS) -c -o $@ $<

$G/hello-%.flat $G/hello-%.elf: $G/hello-%.o
	$(CC) $(GLINK) -Wl,-Ttext=$(ADDR) -o $@ $<

$G/hello-%.bin: $G/hello-%.flat
	objcopy -O binary $< $@

-include $(wildcard $G/*.d)

.PHONY: guests
.PRECIOUS: $G/%.o $G/%.flat
