# Kernels that are not Linux, from Debian's packages, until they show themselves on COM1; the KVM of
# many a machine that emulates one (as tests/tiny.sh meets it) lacks the instructions that they begin
# with. memtest86+ is a bzImage, once with a 64-bit entry and once with only a 32-bit one; GNU Mach is
# an ELF file by Multiboot 1, which ends where it misses its first server.
if [ ! -e /kernels/gnumach ]; then
    skip "all of it" "their packages could not be fetched"
    exit 0
fi
shows() { # KERNEL TEXT ARGUMENT...
    local kernel=$1 text=$2
    shift 2
    vm_start "$kernel" "$@" "/kernels/$kernel"
    check "$kernel" vm_wait "$text" 60
    vm_kill
}
shows memtest86+x64.bin "Memtest86+ v" -m 64M --cmdline console=ttyS0,115200
shows memtest86+ia32.bin "Memtest86+ v" -m 64M --cmdline console=ttyS0,115200
shows gnumach "GNU Mach 1" -m 64M --cmdline console=com0
