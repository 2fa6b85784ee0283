# A virtual function of a network card, whose physical one stays with the host's driver (igb) and
# goes on working: packets to the peer (the host's virtio card, in a network namespace of its own)
# from both. The hardware of a virtual function answers FFFF for vendor and device and has no memory
# bit: what the guest sees of them is made.
pf=$(device 8086 10c9) || {
    skip "all of it" "this QEMU has no igb, version 8 and later do"
    exit 0
}
peer_up
vfs() { echo "$1" >"/sys/bus/pci/devices/$pf/sriov_numvfs"; }
word() { od -An -tx2 -j "$1" -N 2 "/sys/bus/pci/devices/$vf/config" | tr -d ' '; }

check "the host's driver has the card" bind igb "$pf"
link=$(ls "/sys/bus/pci/devices/$pf/net")
ip link set "$link" up
ip addr add 10.9.9.3/24 dev "$link"
check "and sends and receives" reach
check "two virtual functions" vfs 2
vf=$(basename "$(readlink "/sys/bus/pci/devices/$pf/virtfn0")")
equal "their hardware names no vendor" "ffff ffff" "$(word 0) $(word 2)"
minivmm host list "$pf" "$vf" >/out/$scenario/list.txt
check "host list: what they are" grep -qE "^$pf .* igb .* 2 +[0-9]+ " /out/$scenario/list.txt
check "host list: whose they are" grep -qE "^$vf +8086:10ca .* $pf" /out/$scenario/list.txt
check "host bind" minivmm host bind "$vf"
equal "only this one" "vfio-pci igb" "$(driver_of "$vf") $(driver_of "$pf")"

vm_start "guest" --cpus 2 --vfio "$vf" --initrd $GUEST --cmdline "$QUIET t=net driver=igbvf boots=2 sum=$sum" $KERNEL
check "the guest pings the peer" vm_wait "PASS ping the peer" 240
check "meanwhile the host's own function works" reach
vm_end 240
vm_results
equal "exit status" 0 "$status"

vm_start killed --vfio "$vf" --initrd $GUEST --cmdline "$QUIET t=net driver=igbvf sum=$sum" $KERNEL
vm_wait "PASS ping the peer" 240 || fail "a guest to kill" "$(tail -n 1 "$vm_err")"
vm_kill
check "the host's function works after kill -9" reach
vm_run "after kill -9" 240 0 --vfio "$vf" --initrd $GUEST --cmdline "$QUIET t=net driver=igbvf sum=$sum" $KERNEL

check "host unbind" minivmm host unbind "$vf"
check "no virtual functions" vfs 0
check "they are gone" test ! -e "/sys/bus/pci/devices/$vf"
check "the host's function goes on" reach
ip link set "$link" down
release "$pf"
