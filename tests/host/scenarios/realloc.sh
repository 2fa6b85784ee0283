# A guest that places BARs itself: its kernel is told to align those of two devices as no firmware
# would (pci=realloc with resource_alignment=, which takes an exponent) and moves them; a BAR of
# 64 GiB beside them stays or moves as it likes. The drivers work there: what the card shows, the
# disk's file and the huge BAR's ends are looked at. The card's expansion ROM is its own.
disk=$(disk_address) far=$(far_address)
card_rom >/tmp/rom
sum=$(md5sum </tmp/rom)
check "hand over" to_vfio $CARD $SOUND "$disk" "$far"
align="25@0000:00:01.0;20@0000:00:02.0"
vm_start guest --vfio "$CARD,slot=1" --vfio "$disk,slot=2" --vfio "$far,slot=3" --initrd $GUEST --cmdline \
    "$QUIET pci=realloc,resource_alignment=$align t=devices more=display seed=42 rom=01.0/${sum%% *} want=01.0/1234:1111/bochs-drm,02.0/1b36:0010/nvme,03.0/1af4:1110/" $KERNEL
if vm_wait "@@ DRAWN" 240 >/tmp/why; then
    drawn=$(grep -a -o "@@ DRAWN .*" "$vm_out" | tr -d '\r')
    check "picture" ask picture realloc screen ${drawn#@@ DRAWN }
    vm_type go
else
    fail "picture" "$(cat /tmp/why)"
fi
vm_end 240
vm_results
equal "exit status" 0 "$status"
check "data on the raw file" ask data $((16 << 20)) $((1 << 20)) 42
moved() { # DEVICE GUEST_ADDRESS BAR: the guest's address of it is not the one that minivmm chose
    local was is
    was=$(grep -o "$1: BAR$3 0x[0-9a-f]*" "$vm_err")
    is=$(grep -a -o "@@ INFO bar $2 $3 0x[0-9a-f]*" "$vm_out" | tail -n 1)
    echo "$was, $is"
    [ -n "$was" ] && [ -n "$is" ] && [ $((${was##* })) -ne $((${is##* })) ]
}
check "the guest's kernel moved the card's registers" moved $CARD 0000:00:01.0 2
check "and the disk's" moved "$disk" 0000:00:02.0 0
release $CARD $SOUND "$disk" "$far"
