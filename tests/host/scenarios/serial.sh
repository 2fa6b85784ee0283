# A device with an I/O BAR and INTx, on a conventional bus behind a bridge: a serial
# card. The guest's own driver (8250_pci) writes a line to it; it comes out in the
# file behind the card. The other device of its group goes along, bound to vfio-pci.
card=$(device 1b36 0002) other=$(device 1b36 0005)
check "hand over" to_vfio "$card" "$other"
vm_run "guest" 240 0 --vfio "$card" --initrd $GUEST --cmdline "$QUIET t=serial text=0123456789-through-the-card" $KERNEL
check "what the guest wrote came out" ask grep pci-serial 0123456789-through-the-card
check "back to the host's driver" bind serial "$card"
release "$card" "$other"
