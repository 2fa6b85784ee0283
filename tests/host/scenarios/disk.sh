# virtio disks: the stock kernel's own drivers, on a file and on a block device past the page
# cache, with one and with two CPUs; the guest resets itself and finds its data again, and is
# killed once it has been told that its data is safe. Each time the data is compared outside the
# guest. An image that a guest has is refused to another.
image=/tmp/disk.raw second=/tmp/second.raw base=$((16 << 20)) size=$((8 << 20))
truncate -s 32M $image
truncate -s 1M $second
check "an image, its first part written" data write $image 0 $((4 << 20)) 1
check "another" data write $second 0 $((1 << 20)) 1

vm_run "2 CPUs" 300 0 --cpus 2 --disk $image --disk $second,ro --initrd $GUEST \
    --cmdline "$QUIET t=disk boots=2 seed=31 ro=1" $KERNEL
check "data in the file" data check $image $base $size 31
check "the read-only one is as it was" data check $second 0 $((1 << 20)) 1

vm_start killed --disk $image --initrd $GUEST --cmdline "$QUIET t=disk seed=32 then=wait" $KERNEL
vm_wait "@@ READY" 240
refused() {
    local said status
    said=$(minivmm --disk $image $KERNEL 2>&1 </dev/null)
    status=$?
    echo "$status: $said"
    [ $status -eq 4 ] && echo "$said" | grep -q "$image: cannot use disk: process $vm_pid (minivmm) has it"
}
check "an image in use is refused" refused
vm_kill
vm_results
check "nothing flushed is lost by kill -9" data check $image $base $size 32
check "and its first part is as it was" data check $image 0 $((4 << 20)) 1

# A block device of the host's, without its page cache.
disk=$(disk_address)
modprobe nvme
check "host's driver has its disk" bind nvme "$disk"
sleep 1
check "its first part written" data write /dev/nvme0n1 0 $((4 << 20)) 1
vm_run "block device" 240 0 --disk /dev/nvme0n1,direct --initrd $GUEST \
    --cmdline "$QUIET t=disk seed=33" $KERNEL
check "data on the raw file behind it" ask data $base $size 33
release "$disk"
rm $image $second
