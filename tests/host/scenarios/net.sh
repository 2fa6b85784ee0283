# The network card: link, packets both ways, sums. Its peer is the host's other
# card, in a network namespace of its own, so that also the host itself (when it
# has the card back) really sends over the wire.
nic=$(net_address)
modprobe virtio_net
modprobe e1000e
unshare -n sleep 100000 &
peer=$!
echo $peer >>/tmp/pids
sleep 1
for l in /sys/class/net/*; do [ "$(cat "$l/address")" = 52:54:00:00:00:01 ] && ip link set "${l##*/}" netns $peer name wire; done
in_peer() { nsenter -t $peer -n "$@"; }
in_peer ip link set wire up
in_peer ip addr add 10.9.9.1/24 dev wire
dd if=/dev/urandom of=/tmp/stream bs=64k count=16 2>/dev/null
sum=$(md5sum </tmp/stream)
in_peer nc -ll -p 7001 -e cat /tmp/stream &
echo $! >>/tmp/pids
in_peer nc -ll -p 7002 -e md5sum &
echo $! >>/tmp/pids

check "hand over" to_vfio "$nic"
vm_run "MSI-X" 240 0 --cpus 2 --vfio "$nic" --initrd $GUEST --cmdline "$QUIET t=net boots=2 sum=${sum%% *}" $KERNEL

vm_start killed --vfio "$nic" --initrd $GUEST --cmdline "$QUIET t=net sum=${sum%% *}" $KERNEL
vm_wait "PASS ping the peer" 240
vm_kill
vm_run "INTx after kill -9" 240 0 --vfio "$nic" --initrd $GUEST --cmdline "$QUIET t=net irq=intx sum=${sum%% *}" $KERNEL

check "card back to the host's driver" to_host e1000e e1000e "$nic"
sleep 1
link=$(ls "/sys/bus/pci/devices/$nic/net")
ip link set "$link" up
ip addr add 10.9.9.3/24 dev "$link"
reach() { # the link takes a while to come up, and the first packets are lost
    for _ in 1 2 3 4 5 6 7 8 9 10; do ping -c 1 -W 3 10.9.9.1 && return; done
}
check "host's driver sends and receives" reach
ip link set "$link" down
release "$nic"
