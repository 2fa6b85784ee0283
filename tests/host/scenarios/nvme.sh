# The disk: a guest writes and reads by DMA with MSI-X, resets itself and finds its
# data again, is killed in the middle and started again, with one and two CPUs. Each
# time the data is compared outside, on the raw file, and in the end by the host's own
# driver, which gets the disk back. INTx is left to the other devices: QEMU's disk may
# keep its line up for ever (it tells the driver when to ring a doorbell by where the
# queue was, not by where it is; 300,000 interrupts without a cause were seen).
disk=$(disk_address)
base=$((16 << 20)) size=$((8 << 20))
modprobe nvme
check "host's driver has it first" bind nvme "$disk"
check "hand over" to_vfio "$disk"

vm_run "MSI-X" 240 0 --cpus 2 --vfio "$disk" --initrd $GUEST --cmdline "$QUIET t=nvme boots=2 seed=21" $KERNEL
check "data on the raw file" ask data $base $size 21

vm_start killed --vfio "$disk" --initrd $GUEST --cmdline "$QUIET t=nvme seed=22 mb=24 then=wait" $KERNEL
vm_wait "driver bound" 240
vm_kill
vm_run "after kill -9" 240 0 --vfio "$disk" --initrd $GUEST --cmdline "$QUIET t=nvme seed=23" $KERNEL
check "data on the raw file after kill -9" ask data $base $size 23

check "disk back to the host's driver" to_host nvme nvme "$disk"
sleep 1
check "host's driver reads what the guest wrote" data check /dev/nvme0n1 $base $size 23
check "host's driver writes" data write /dev/nvme0n1 $base $((1 << 20)) 25
check "outside sees it" ask data $base $((1 << 20)) 25
release "$disk"
