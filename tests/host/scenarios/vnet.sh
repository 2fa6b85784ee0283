# The virtio network card on a tap, with packets moved by the kernel (vhost-net) and by minivmm,
# with one queue and with two; the guest resets itself on the way. With vhost the event loop has
# no part in it: it wakes up some times, not for each packet.
modprobe tun
modprobe vhost_net
for _ in 1 2 3 4 5; do [ -e /dev/vhost-net ] || sleep 1; done
dd if=/dev/urandom of=/tmp/stream bs=64k count=16 2>/dev/null
sum=$(md5sum </tmp/stream)
sum=${sum%% *}
nc -ll -p 7001 -e cat /tmp/stream &
echo $! >>/tmp/pids
nc -ll -p 7002 -e md5sum &
echo $! >>/tmp/pids

use() { # TAP: its end of the wire is here
    ip addr flush dev "$1"
    ip addr add 10.9.9.1/24 dev "$1"
    ip link set "$1" up
}
wakes() { # of the event loop's thread, so far
    sed -n 's/^voluntary_ctxt_switches:[^0-9]*//p' "/proc/$vm_pid/task/$vm_pid/status"
}
threads_of_vhost() { cat /proc/[0-9]*/comm 2>/dev/null | grep -c "^vhost-$vm_pid"; }
# counted NAME OPTIONS: a guest up to its end, $woken times the loop woke up for its streams
counted() {
    vm_start "$1" --net "$2" --initrd $GUEST --cmdline "$QUIET t=vnet sum=$sum then=wait" $KERNEL
    vm_wait "@@ STREAMS" 240
    woken=$(wakes)
    workers=$(threads_of_vhost)
    vm_wait "@@ READY" 240
    woken=$(($(wakes) - woken))
    note "$1: the event loop woke up $woken times for the streams"
}

check "a tap" tap tap0
use tap0
vm_run "reset" 300 0 --net tap=tap0,mac=52:54:00:00:00:77 --initrd $GUEST \
    --cmdline "$QUIET t=vnet boots=2 sum=$sum mac=52:54:00:00:00:77" $KERNEL
counted vhost tap=tap0
equal "vhost moves the packets" 1 "$workers"
few=$woken
refused() {
    local said status
    said=$(minivmm --net tap=tap0 $KERNEL 2>&1 </dev/null)
    status=$?
    echo "$status: $said"
    [ $status -eq 4 ] && echo "$said" | grep -q "tap0: cannot use tap: another program has it"
}
check "a tap in use is refused" refused
vm_kill
vm_results
counted "no vhost" tap=tap0,vhost=off
equal "minivmm moves the packets" 0 "$workers"
vm_kill
vm_results
if [ "$few" -lt 20 ] && [ "$woken" -gt 100 ]; then
    pass "with vhost the loop sleeps"
else
    fail "with vhost the loop sleeps" "woken $few times with it, $woken without"
fi
ip link set tap0 down

check "a tap with queues" tap tap1 multi
use tap1
for vhost in "" ,vhost=off; do
    vm_run "2 queues$vhost" 300 0 --cpus 2 --net tap=tap1,queues=2$vhost --initrd $GUEST \
        --cmdline "$QUIET t=vnet queues=2 sum=$sum" $KERNEL
done
vm_run "1 queue of many" 300 0 --net tap=tap1 --initrd $GUEST \
    --cmdline "$QUIET t=vnet sum=$sum" $KERNEL
ip link set tap1 down
