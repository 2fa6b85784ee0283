# The network card: link, packets both ways, sums. Its peer is the host's other
# card, in a network namespace of its own, so that also the host itself (when it
# has the card back) really sends over the wire.
nic=$(net_address)
modprobe e1000e
peer_up

check "hand over" to_vfio "$nic"
vm_run "MSI-X" 240 0 --cpus 2 --vfio "$nic" --initrd $GUEST --cmdline "$QUIET t=net boots=2 sum=$sum" $KERNEL

vm_start killed --vfio "$nic" --initrd $GUEST --cmdline "$QUIET t=net sum=$sum" $KERNEL
vm_wait "PASS ping the peer" 240
vm_kill
vm_run "INTx after kill -9" 240 0 --vfio "$nic" --initrd $GUEST --cmdline "$QUIET t=net irq=intx sum=$sum" $KERNEL

check "card back to the host's driver" to_host e1000e e1000e "$nic"
sleep 1
link=$(ls "/sys/bus/pci/devices/$nic/net")
ip link set "$link" up
ip addr add 10.9.9.3/24 dev "$link"
check "host's driver sends and receives" reach
ip link set "$link" down
release "$nic"
