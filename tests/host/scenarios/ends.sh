# How a stock kernel ends, each with its own exit status: power off (every other
# scenario has that), reset by each way a kernel knows, triple fault, and the
# user's and the host's ways to end minivmm.
vm_run "reboot=acpi" 240 6 --no-reboot --initrd $GUEST --cmdline "$QUIET reboot=a t=none then=reboot" $KERNEL
vm_run "reboot=keyboard" 240 6 --no-reboot --initrd $GUEST --cmdline "$QUIET reboot=k t=none then=reboot" $KERNEL
vm_run "reboot=triple" 240 8 --initrd $GUEST --cmdline "$QUIET reboot=t t=none then=reboot" $KERNEL
panics=yes
vm_run "panic" 240 6 --no-reboot --initrd $GUEST --cmdline "$QUIET t=none then=crash" $KERNEL
panics=

# Nobody listens to the power button there.
vm_start "SIGTERM" --initrd $GUEST --cmdline "$QUIET t=none then=wait" $KERNEL
vm_wait "@@ READY" 240
kill -TERM $vm_pid
vm_end 30
equal "SIGTERM: exit status" 143 "$status"

vm_start "Ctrl-A x" --initrd $GUEST --cmdline "$QUIET t=none then=wait" $KERNEL
vm_wait "@@ READY" 240
printf '\001x' >&6
vm_end 30
equal "Ctrl-A x: exit status" 0 "$status"

# Signals and commands with a device, which has to work in the host each time afterwards.
disk=$(disk_address)
press="-m 256M --vfio $disk --control /tmp/control --initrd $GUEST"
says() { # NAME COMMAND TEXT
    minivmm ctl /tmp/control "$2" >/tmp/said 2>&1
    check "$1" grep -F -e "$3" /tmp/said
}
given_back() {
    check "$1: the disk is given back" to_host nvme nvme "$disk"
    for _ in 1 2 3 4 5 6 7 8 9 10; do [ -e /dev/nvme0n1 ] || pause; done
    check "$1: it works" dd if=/dev/nvme0n1 of=/dev/null bs=4k count=1
    check "$1: it is handed over" to_vfio "$disk"
}
check "hand over" to_vfio "$disk"

vm_start "ctl" $press --cmdline "$QUIET t=button" $KERNEL
vm_wait "@@ READY" 240
says "ctl status" status '"status":"running","name":null'
says "ctl status: the device" status "\"devices\":[\"$disk\"]"
says "ctl counters: RAM is mapped" counters "\"dma_mapped\":$((256 << 20))}"
says "ctl counters: the guest has interrupts" counters '"interrupts":'
check "ctl counters: the guest has interrupts, and not few" grep -q '"interrupts":[1-9][0-9][0-9]' /tmp/said
check "ctl counters: the serial port was used" grep -q '"name":"uart","space":"port","base":1016,"accesses":[1-9]' /tmp/said
says "ctl pause" pause '{"return":{}}'
says "ctl status: paused" status '"status":"paused"'
says "ctl resume" resume '{"return":{}}'
says "ctl reset" reset '{"return":{}}'
check "ctl reset: it boots again" vm_wait "@@ READY" 240 2
says "ctl powerdown" powerdown '{"return":{}}'
vm_end 60
vm_results
equal "ctl: exit status" 0 "$status"
check "ctl: the socket is gone" test ! -e /tmp/control
given_back "ctl"

vm_start "SIGTERM, heard" $press --pidfile /tmp/pid --cmdline "$QUIET t=button" $KERNEL
vm_wait "@@ READY" 240
kill -TERM "$(cat /tmp/pid)"
vm_end 60
vm_results
equal "SIGTERM, heard: exit status" 0 "$status"
check "SIGTERM, heard: the pidfile is gone" test ! -e /tmp/pid
given_back "SIGTERM, heard"

# A guest that hears and does nothing.
vm_start "two signals" $press --cmdline button-ignored /guests/ends.elf
vm_wait listening 60
kill -HUP $vm_pid
vm_wait pressed 20
kill -INT $vm_pid
vm_end 30
equal "two signals: exit status" 130 "$status"
given_back "two signals"

vm_start "stop-timeout" $press --stop-timeout 2 --cmdline button-ignored /guests/ends.elf
vm_wait listening 60
kill -TERM $vm_pid
vm_end 30
equal "stop-timeout: exit status" 143 "$status"
given_back "stop-timeout"
release "$disk"
