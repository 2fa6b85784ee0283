# vfio-user devices of vfio-emu under a KVM that is the kernel's own: the tiny guests, where the
# KVM of the machine outside ends level interrupts early and lets a spurious one pass; and a
# stock kernel, which has to find the platform device in the DSDT by its compatible string.
serve() { # DEVICE
    vfio-emu --socket /tmp/emu.sock --once "$1" 2>&1 &
    echo $! >>/tmp/pids
}
guest() { # NAME DEVICE WORDS
    serve "$2"
    vm_start "$1" -m 64M --vfio unix:/tmp/emu.sock --debug-exit 0xf4 --cmdline "$3" "/guests/${2%%,*}.elf"
    vm_end 120
    equal "$1: status" 1 "$status"
    [ "$status" = 1 ] || grep -a FAIL "$vm_out"
}
# 1000: one costs milliseconds here; the other 9000 are for the machine outside.
guest platform platform rounds=1000
check "platform: interrupts, none without a cause" grep -q " 1000 came, and 0 without a cause" "$vm_out"
guest gpu gpu ""
serve platform
vm_run "Linux" 240 0 --vfio unix:/tmp/emu.sock --initrd $GUEST --cmdline "$QUIET t=platform" $KERNEL
