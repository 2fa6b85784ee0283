# Sockets between guest and host: the kernel's vhost-vsock behind the guest's virtio-vsock. Data
# both ways, in two boots; what a transfer costs in exits to minivmm is counted by KVM.
stats=/sys/kernel/debug/kvm
bytes=$((4 << 20))
modprobe vhost_vsock
mount -t debugfs none /sys/kernel/debug 2>/dev/null
user_exits() { cat $stats/mmio_exits; }

vm_start guest --vsock 42 --initrd $GUEST --cmdline "$QUIET t=vsock boots=2 cid=42 seed=41" $KERNEL
for boot in 1 2; do
    vsock recv 1000 >/tmp/got &
    receiver=$!
    check "boot $boot: guest is ready" vm_wait "@@ READY" 240 $boot
    before=$(user_exits)
    vm_type go
    check "boot $boot: guest has sent" vm_wait "@@ SENT" 120 $boot
    wait $receiver
    exits=$(($(user_exits) - before))
    check "boot $boot: data from the guest" data check /tmp/got 0 $bytes 41
    # None was ever seen; where every kick exits (no ioeventfds), more than 20.
    note "vsock: $exits exits to user space for 4 MiB"
    if [ "$before" -gt 0 ] && [ "$exits" -lt 8 ]; then
        pass "boot $boot: no exit to user space on the way"
    else
        fail "boot $boot: no exit to user space on the way" "$before before, then $exits for 4 MiB"
    fi
    if [ $boot = 1 ]; then
        refused() {
            local said status
            said=$(minivmm --vsock 42 $KERNEL 2>&1 </dev/null)
            status=$?
            echo "$status: $said"
            [ $status -eq 4 ] && echo "$said" | grep -q "vsock: cannot use CID 42: another guest has it"
        }
        check "an address in use is refused" refused
    fi
    : >/tmp/put
    data write /tmp/put 0 $bytes 42
    check "boot $boot: data to the guest" sh -c "vsock send 42 1001 </tmp/put"
done
vm_end 120
vm_results
equal "exit status" 0 "$status"
rm -f /tmp/got /tmp/put
