# The kernel's newer way to its devices: /dev/iommu and a node for each device, one address space
# for all of them; and on the same kernel the older way, by groups. A card of two functions and a
# disk at once: the picture, pixel by pixel, and the data are compared outside; after a reset of
# the guest and after minivmm was killed. Which way it went is seen from its open files.
disk=$(disk_address)
node() { echo "/dev/vfio/devices/$(ls "/sys/bus/pci/devices/$1/vfio-dev")"; }
files() { # of minivmm that are VFIO's, in a line, each once
    for f in "/proc/$(pidof minivmm)/fd"/*; do readlink "$f"; done | grep -E '^/dev/(vfio|iommu)' | sort -u | tr '\n' ' '
}
sorted() { for f; do echo "$f"; done | sort | tr '\n' ' '; }

check "hand over" to_vfio $CARD $SOUND "$disk"
new=$(sorted /dev/iommu "$(node $CARD)" "$(node $SOUND)" "$(node "$disk")")
old=$(sorted /dev/vfio/vfio "/dev/vfio/$(group_of $CARD)" "/dev/vfio/$(group_of "$disk")")
three() { echo "--vfio $CARD$1 --vfio $SOUND$1 --vfio $disk$1 --initrd $GUEST"; }

vm_start iommufd --cpus 2 $(three ,iommufd) --cmdline "$QUIET t=both boots=2 seed=31" $KERNEL
draws "picture by iommufd" 1
equal "three devices in one iommufd" "$new" "$(files)"
vm_type go
draws "picture after a reset" 2 && vm_type go
vm_end 240
vm_results
equal "exit status" 0 "$status"
check "data on the raw file" ask data $((16 << 20)) $((8 << 20)) 31

vm_start killed $(three ,iommufd) --cmdline "$QUIET t=both seed=32" $KERNEL
vm_wait "@@ DRAWN" 240 || fail "a guest to kill" "$(tail -n 1 "$vm_err")"
vm_kill
vm_start again $(three ,iommufd) --cmdline "$QUIET t=both seed=33" $KERNEL
draws "picture after kill -9" 1 && vm_type go
vm_end 240
vm_results
check "data on the raw file after kill -9" ask data $((16 << 20)) $((8 << 20)) 33

vm_start groups $(three ,iommufd=off) --cmdline "$QUIET t=both seed=34" $KERNEL
draws "picture by groups" 1
equal "two groups in one container" "$old" "$(files)"
vm_type go
vm_end 240
vm_results
check "data on the raw file by groups" ask data $((16 << 20)) $((8 << 20)) 34

# --- which way, when it is not said ---
vm_start root --vfio "$disk" --initrd $GUEST --cmdline "$QUIET t=none then=wait" $KERNEL
check "root" vm_wait "@@ READY" 240
equal "root: by groups" "$(sorted /dev/vfio/vfio "/dev/vfio/$(group_of "$disk")")" "$(files)"
minivmm --vfio "$disk,iommufd" --initrd $GUEST $KERNEL </dev/null >/dev/null 2>/tmp/said
equal "in use by the other way: status" 4 $?
check "in use by the other way: by whom" grep -qE "^minivmm: .*$disk.*in use.*minivmm" /tmp/said
cat /tmp/said
vm_kill

# An ordinary user, to whom root gave the device's node and no group's.
chmod 666 /dev/kvm /dev/iommu
chown user "$(node "$disk")"
printf '#!/bin/sh\nulimit -l 2000000\nexec su user -c "exec /bin/minivmm $*"\n' >/tmp/as_user
chmod +x /tmp/as_user
minivmm() { exec /tmp/as_user "$@"; } # in the background: the same process
vm_start user --vfio "$disk" --initrd $GUEST --cmdline "'$QUIET t=nvme seed=35 then=wait'" $KERNEL
check "a user who has the device's node only" vm_wait "@@ READY" 240
equal "user: by iommufd" "$(sorted /dev/iommu "$(node "$disk")")" "$(files)"
vm_results
vm_kill
check "data on the raw file of the user's guest" ask data $((16 << 20)) $((8 << 20)) 35
unset -f minivmm
chown root "$(node "$disk")"
chmod 600 /dev/kvm /dev/iommu

# --- a neighbour in the group that the host's driver has ---
pair=$(device 1b36 0005) serial=$(device 1b36 0002)
to_vfio "$pair"
bind serial "$serial"
for way in iommufd iommufd=off; do
    minivmm --vfio "$pair,$way" --initrd $GUEST $KERNEL </dev/null >/dev/null 2>/tmp/said
    equal "group not viable, $way: status" 4 $?
    check "group not viable, $way: its neighbour is named" grep -qE "^minivmm: .*$pair.*$serial.*serial" /tmp/said
    equal "group not viable, $way: one complaint" 1 "$(grep -c ': cannot ' /tmp/said)"
    cat /tmp/said
done
release "$pair" "$serial" $CARD $SOUND "$disk"
