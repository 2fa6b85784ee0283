# One function of a card without the others (the sound; the display stays with vfio-pci), which
# the guest has to find as function 0; two devices of the host as functions of one slot; and a
# disk without direct access to its registers (mmap=off). The network card, which has no ROM, gets
# one from a file, the display card's with a byte changed.
disk=$(disk_address) nic=$(net_address)
card_rom >/tmp/rom
check "the card's ROM" test "$(wc -c </tmp/rom)" -ge 16384
printf 'X' | dd of=/tmp/rom bs=1 seek=1000 conv=notrunc
sum=$(md5sum </tmp/rom)
check "hand over" to_vfio $CARD $SOUND "$disk" "$nic"
vm_run "guest" 240 0 --vfio $SOUND --vfio "$nic,slot=5,rom=/tmp/rom" --vfio "$disk,slot=5.1,mmap=off" --initrd $GUEST \
    --cmdline "$QUIET t=devices seed=41 rom=05.0/${sum%% *} want=01.0/8086:2668/snd_hda_intel,05.0/8086:10d3/e1000e,05.1/1b36:0010/nvme" $KERNEL
check "mmap=off: every access traps" grep -q "$disk: BAR0 .* trapped$" "$vm_err"
check "the other is direct" grep -q "$nic: BAR0 .* direct$" "$vm_err"
check "data on the raw file" ask data $((16 << 20)) $((1 << 20)) 41

# The display without the sound, which has no driver: nobody else's, so the group is allowed, but
# the kernel resets the slot only where all of it is VFIO's. The guest gets the card as it is.
release $SOUND
tiny "without the other function" 60 pci --vfio $CARD
check "it is said that it keeps its state" grep -q "$CARD: the device keeps its state.*minivmm host bind" "$vm_err"
release $CARD $SOUND "$disk" "$nic"
