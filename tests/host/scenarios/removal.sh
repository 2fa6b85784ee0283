# The host wants a device back while a guest has it, and a device that has an error: minivmm is
# told by an interrupt of VFIO's, says so in one line, ends with status 12, and the host's unbind,
# which waits for it, comes to its end. The guest (tests/guests/huge.c) only waits.
edu=$(edu_address) faulty=$(device 1af4 1044)
check "hand over" to_vfio "$edu" "$faulty"
held() { # NAME DEVICE: a guest that has it
    vm_start "$1" -m 64M --vfio "$2" --debug-exit 0xf4 --cmdline hold /guests/huge.elf
    vm_wait held 60 >/tmp/why || fail "$1: a guest has it" "$(cat /tmp/why)"
}
ended() { # NAME PATTERN: by itself, and said why
    vm_end 30
    equal "$1: status" 12 "$status"
    equal "$1: one message, which says why" 1 "$(grep -cE "^minivmm: $2" "$vm_err")"
}

held "asked back" "$edu"
echo "$edu" >/sys/bus/pci/drivers/vfio-pci/unbind &
unbind=$!
echo $unbind >>/tmp/pids
ended "asked back" "$edu: the host asks for the device back"
n=0
while [ -d /proc/$unbind ] && [ $n -lt 20 ]; do pause; n=$((n + 1)); done
equal "asked back: the unbind came to its end" "" "$(driver_of "$edu")"
check "asked back: it can be handed over again" to_vfio "$edu"
tiny "afterwards" 60 edu -m 8M --vfio "$edu" --cmdline quick

# QEMU's devices send the message only with SERR# enabled in COMMAND, too; in the specification
# (PCI Express Base, 6.2.5) either of that and the enable bits in Device Control will do.
held "error" "$faulty"
printf '\002\001' | dd of="/sys/bus/pci/devices/$faulty/config" bs=1 seek=4 conv=notrunc
check "error: the device reports one" ask aer faulty UNSUP
ended "error" "$faulty: cannot go on: the device reported an uncorrectable error"
check "error: the host's kernel saw it" grep -q "$faulty: .*UnsupReq" "$(dmesg >/tmp/dmesg; echo /tmp/dmesg)"
release "$edu" "$faulty"
