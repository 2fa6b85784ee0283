# Peer to peer: two devices in one guest, and one reads and writes the other's memory by DMA. The
# mappings are made while the guest runs, and follow a BAR that it moves. With one device there
# are none. A BAR of 64 GiB takes this kernel minutes, a fault for each page: neither the guest, a
# BAR that is moved meanwhile nor the end of the VM may wait for all of it.
edu=$(edu_address) far=$(far_address)
check "hand over" to_vfio "$edu" $CARD $SOUND "$far"
tiny "the display's memory" 120 edu -m 8M --vfio "$edu" --vfio $CARD --cmdline "quick peer"
check "it is said" grep -q "$CARD: BAR0 is a peer's DMA target from 0xd0000000" "$vm_err"
check "also after it was moved" grep -q "$CARD: BAR0 is a peer's DMA target from 0xd1000000" "$vm_err"

vm_start alone -m 8M --vfio "$edu" --debug-exit 0xf4 --cmdline "wait=3 hold" /guests/huge.elf
vm_wait held 60 || fail "alone" "$(tail -n 1 "$vm_err")"
vm_kill
check "with one device there is no such mapping" test "$(grep -c peer "$vm_err")" = 0

# This IOMMU's addresses have 39 bits on both sides, and the host has this BAR above them: no device
# reaches it. It is mapped all the same.
mapping() { # a thread of minivmm is in the kernel's function for it
    local n=0
    while [ $n -lt 15 ]; do
        ! cat /proc/$vm_pid/task/*/stack 2>/dev/null | grep -q vfio_iommu_type1_ioctl || return 0
        pause
        n=$((n + 1))
    done
    return 1
}
vm_start "64 GiB" -m 8M --vfio "$edu" --vfio "$far" --debug-exit 0xf4 --cmdline "wait=6 far=64 hold" /guests/huge.elf
vm_wait "not there while" 60 # it has switched it on
check "64 GiB: the mapping is in progress" mapping
check "64 GiB: the guest reaches both ends and moves it meanwhile" vm_wait held 60
equal "64 GiB: all was well there" 0 "$(grep -c -a '^FAIL' "$vm_out")"
check "64 GiB: the mapping has begun again" mapping
kill -TERM $vm_pid
vm_end 30
equal "64 GiB: the end of the VM is not held up" 143 "$status"
check "64 GiB: nothing of it waited for the whole" test "$(grep -c "$far: BAR2 is a peer" "$vm_err")" = 0
release "$edu" $CARD $SOUND "$far"
