# The main job, for tests/host/demo.sh: the usage line as it stands in the README,
# then the same with the disk. What is shown is made outside from what minivmm and
# the guest said (DEMO.out, DEMO.err); the notes are the progress on the screen.
cd $IMAGES || exit 1
to_vfio $CARD $SOUND || exit 1
note "card $CARD and its other function $SOUND: bound to vfio-pci"
note '$ minivmm --vfio 0000:42:00.0 --initrd guest.img kernel.bin'
vm_start card --vfio 0000:42:00.0 --initrd guest.img kernel.bin
vm_wait "Linux version" 120 && note "guest: $(grep -a -o -m 1 'Linux version [^ ]*' "$vm_out") starts"
vm_wait "@@ INIT" 240 && note "guest: its init runs, loads its own drivers"
if vm_wait "@@ DRAWN" 120; then
    drawn=$(grep -a -o "@@ DRAWN .*" "$vm_out" | tail -n 1 | tr -d '\r')
    note "guest: drew on the card; saving the card's screen"
    check "every pixel of the card's screen is as drawn" ask picture screen screen ${drawn#@@ DRAWN }
    vm_type "thank you" # the guest waits for a line
fi
vm_end 60
vm_results
equal "guest powered off" 0 "$status"

disk=$(disk_address)
to_vfio "$disk" || exit 1
line="console=ttyS0 quiet t=nvme seed=42"
note "disk $disk: bound to vfio-pci"
note "\$ minivmm --vfio $disk --initrd guest.img --cmdline \"$line\" kernel.bin"
vm_start disk --vfio "$disk" --initrd guest.img --cmdline "$line" kernel.bin
vm_wait "@@ INIT" 240 && note "guest: its nvme driver writes and reads 8 MB"
vm_end 120
vm_results
equal "guest powered off" 0 "$status"
check "the file behind the disk holds what the guest wrote" ask data $((16 << 20)) $((8 << 20)) 42
