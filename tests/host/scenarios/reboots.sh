# A hundred reboots of one guest in one process, with a passed-through disk and a virtio one: what
# minivmm has open, mapped and in memory is the same after the last as after the first. Its RAM
# is pinned, so all of it counts from the start.
disk=$(disk_address)
check "hand over" to_vfio "$disk"
truncate -s 1M /tmp/disk.raw
holds() {
    files=$(ls /proc/$vm_pid/fd | wc -l)
    maps=$(wc -l </proc/$vm_pid/maps)
    memory=$(awk '/^VmRSS/ { print $2 }' /proc/$vm_pid/status)
    note "reboots: files $files, mappings $maps, memory $memory KiB"
}
vm_start reboots --memory 128M --vfio "$disk" --disk /tmp/disk.raw --initrd $GUEST \
    --cmdline "$QUIET t=none boots=101 then=wait" $KERNEL
check "the first reboot" vm_wait "@@ INIT boot 2[^0-9]" 120
holds
had=$files mapped=$maps used=$memory
check "the last" vm_wait "@@ READY" 2400
holds
equal "all boots were counted" 101 "$(grep -a -c "@@ INIT boot" "$vm_out")"
equal "no file left open" "$had" "$files"
# One fewer was seen, as the kernel merges neighbours.
check "no mapping left ($mapped, then $maps)" test "$maps" -le "$mapped"
check "no memory left (less than 1 KiB a reboot: $used KiB, then $memory)" test $((memory - used)) -lt 100
kill -TERM $vm_pid
pause
kill -TERM $vm_pid
vm_end 30
equal "the second SIGTERM ends it" 143 "$status"
release "$disk"
