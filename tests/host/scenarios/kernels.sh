# Kernels other than the stock one, from Debian's packages; the KVM of many a machine that emulates
# one (as tests/tiny.sh meets it) lacks the instructions that they begin with. Those that are not
# Linux run until they show themselves on COM1: memtest86+ is a bzImage, once with a 64-bit entry and
# once with only a 32-bit one; GNU Mach is an ELF file by Multiboot 1, which ends where it misses its
# first server. Linux from the backports boots to its end, without CMPXCHG16B, after which
# this emulation loses the flags (README.md). Firmware (EDK II, by PVH) starts the boot
# loader of a disk, and that the stock Linux, twice.
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
refused() {
    local said status
    said=$(minivmm -m 64M /kernels/ipxe.lkrn 2>&1 </dev/null)
    status=$?
    echo "$status: $said"
    [ $status -eq 4 ] && echo "$said" | grep -q "only a BIOS can start it"
}
check "ipxe.lkrn is refused" refused

if [ -e /kernels/backports ]; then
    vm_run backports 120 0 --initrd $GUEST --cmdline "$QUIET t=boot cpus=1 clearcpuid=cx16" /kernels/backports
else
    skip backports "its package could not be fetched"
fi
if [ -e /kernels/CLOUDHV.fd ]; then
    vm_start firmware --disk /kernels/disk.raw /kernels/CLOUDHV.fd
    vm_end 180
    check "the disk's boot loader, once for each boot" test "$(grep -c -a "GRUB of the disk" "$vm_out")" = 2
    vm_results
    equal "firmware: exit status" 0 "$status"
else
    skip firmware "its package could not be fetched"
fi
