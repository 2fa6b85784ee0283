# What goes wrong with devices and permissions: each time one line on standard
# error that begins "minivmm: ", names the thing, and says what to do; the status of
# "could not start" (4) or of a bad command line (2); and the host is as before.
disk=$(disk_address)

# wrong NAME STATUS NAMED HINT COMMAND...: NAMED and HINT are regular expressions.
# What the command prints on standard output is no business of this.
wrong() {
    local name=$1 want=$2 named=$3 hint=$4 before after
    shift 4
    before=$(host_state)
    timeout -s KILL 60 "$@" </dev/null >/tmp/wrong.out 2>/tmp/wrong.err
    status=$?
    after=$(host_state)
    echo "$name: $(cat /tmp/wrong.err)"
    if [ $status -ne "$want" ]; then
        fail "$name" "status $status, not $want: $(tail -n 2 /tmp/wrong.err | tr '\n' ' ')"
    elif [ "$(wc -l </tmp/wrong.err)" -ne 1 ] || ! grep -q '^minivmm: ' /tmp/wrong.err; then
        fail "$name" "not one line of minivmm's: $(tr '\n' '|' </tmp/wrong.err | cut -c1-400)"
    elif ! grep -qE "$named" /tmp/wrong.err || ! grep -qE "$hint" /tmp/wrong.err; then
        fail "$name" "does not say /$named/ and /$hint/: $(cat /tmp/wrong.err)"
    elif [ "$before" != "$after" ]; then
        fail "$name" "the host is not as before: $after"
    else
        pass "$name"
    fi
}
host_state() { # drivers of all devices, owners of the nodes
    for d in /sys/bus/pci/devices/*; do echo "${d##*/} $(readlink "$d/driver")"; done
    ls -ln /dev/vfio
    ls /dev/shm /tmp | grep -v wrong
}
# What a user types, the devices left out; and the same as an ordinary user with so
# many KiB to lock. Scripts, as timeout and su start programs, not functions.
printf '#!/bin/sh\n. /lib.sh\nexec minivmm "$@" --initrd $GUEST --cmdline "$QUIET t=none" $KERNEL\n' >/bin/run
printf '#!/bin/sh\nl=$1; shift\nulimit -l $l # by root: only root may raise it\nexec su user -c "exec run $*"\n' >/bin/as_user
chmod +x /bin/run /bin/as_user

wrong "no such device" 4 "0000:99:00.0" "; " run --vfio 0000:99:00.0
wrong "not an address" 4 "nonsense" "; give one such as" run --vfio nonsense
wrong "no such option of a device" 2 "bogus" "" run --vfio $CARD,bogus=1
wrong "bound to nothing" 4 "$disk" "vfio-pci" run --vfio "$disk"
modprobe nvme
bind nvme "$disk"
wrong "bound to another driver" 4 "$disk.*nvme|nvme.*$disk" "vfio-pci" run --vfio "$disk"
check "the other driver still has it" test "$(driver_of "$disk")" = nvme
to_vfio "$disk"
wrong "given twice" 4 "$disk" "twice" run --vfio "$disk" --vfio "$disk"

# The serial card and the test device share a group: one with the host, one not.
pair=$(device 1b36 0005) serial=$(device 1b36 0002)
to_vfio "$pair"
bind serial "$serial"
wrong "group not viable" 4 "$pair" "$serial" run --vfio "$pair"
release "$pair"

vm_start holder --vfio "$disk" --initrd $GUEST --cmdline "$QUIET t=none then=wait" $KERNEL
vm_wait "@@ READY" 240 || fail "a first guest with the disk" "$(tail -n 1 "$vm_err")"
wrong "in use by another process" 4 "$disk" "in use.*minivmm" run --vfio "$disk"
vm_kill

# An ordinary user, to whom root gave the group's node.
group=$(group_of "$disk")
chmod 666 /dev/kvm
wrong "no permission on the group" 4 "/dev/vfio/$group" "chown" as_user 2000000 --vfio "$disk"
chown user "/dev/vfio/$group"
wrong "RLIMIT_MEMLOCK too low" 4 "RLIMIT_MEMLOCK" "ulimit -l [0-9]+" as_user 64 --vfio "$disk"
needed=$(grep -oE 'ulimit -l [0-9]+' /tmp/wrong.err | grep -oE '[0-9]+')
as_user "${needed:-64}" --vfio "$disk" </dev/null >"/out/$scenario/user.out" 2>"/out/$scenario/user.err"
equal "with the limit that it named, an ordinary user can" 0 $?
chown root "/dev/vfio/$group"
chmod 600 /dev/kvm
wrong "no permission on /dev/kvm" 4 "/dev/kvm" "; " as_user 64

# Without the modules. Devices first, as they hold them.
release "$disk"
rmmod vfio_pci vfio_pci_core
to_vfio "$disk" 2>/dev/null
wrong "vfio-pci not loaded" 4 "$disk" "vfio-pci" run --vfio "$disk"
modprobe vfio-pci
to_vfio "$disk"
rmmod vfio_iommu_type1 2>/dev/null
wrong "no IOMMU module" 4 "$disk|/dev/vfio/vfio" "modprobe" run --vfio "$disk"
modprobe vfio_iommu_type1
release "$disk"
rmmod kvm_amd kvm
wrong "no /dev/kvm" 4 "/dev/kvm" "modprobe|; " run
modprobe kvm-amd
check "all of it back: a guest with the disk starts" to_vfio "$disk"
vm_run "afterwards" 240 0 --vfio "$disk" --initrd $GUEST --cmdline "$QUIET t=none" $KERNEL
release "$disk"
