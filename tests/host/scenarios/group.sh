# Two devices that share a group, both in one guest: allowed, as nobody else has one of them (each
# alone with the other at a driver of the host is not: errors.sh). The serial card works.
card=$(device 1b36 0002) other=$(device 1b36 0005)
equal "they share a group" "$(group_of "$card")" "$(group_of "$other")"
check "hand over" to_vfio "$card" "$other"
vm_run "guest" 240 0 --vfio "$card" --vfio "$other" --initrd $GUEST \
    --cmdline "$QUIET t=devices want=01.0/1b36:0002/serial,02.0/1b36:0005/ more=serial text=0123456789-together" $KERNEL
check "what the guest wrote came out" ask grep pci-serial 0123456789-together
release "$card" "$other"
