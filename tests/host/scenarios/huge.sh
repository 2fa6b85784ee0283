# BARs of 64 and of 256 GiB. The first has memory behind it to its end, a file that the machine
# outside reads and writes; the second is as large as an IOMMU of 39 bits lets the guest have it
# (it has to end at 512 GiB). A tiny guest (tests/guests/huge.c) reaches both, alone and together,
# and moves one. With a single device nothing of a BAR is mapped for DMA: this kernel would take
# minutes for it, a page at a time.
far=$(far_address) hole=$(hole_address)
last=$(((64 << 30) - 4096))
host_bar() { # ADDRESS N: its size as the host's kernel placed it, in GiB
    local start end flags
    sed -n "$(($2 + 1))p" "/sys/bus/pci/devices/$1/resource" >/tmp/bar
    read -r start end flags </tmp/bar
    echo $(((end - start + 1) >> 30))
}
equal "the host gave both BARs their places" "64 256" "$(host_bar "$far" 2) $(host_bar "$hole" 2)"
check "hand over" to_vfio "$far" "$hole"

tiny "64 GiB" 60 huge -m 64M --vfio "$far" --cmdline "far=64"
for at in $((4096)) $((last - 4096)); do check "byte $at written by the guest, seen outside" ask far $at 4096 6; done
for at in $((2 * 4096)) $((last - 2 * 4096)); do check "byte $at written through the moved BAR, seen outside" ask far $at 4096 7; done
equal "no DMA mapping but RAM's" "DMA 0x0" "$(grep -o 'DMA 0x[0-9a-f]*' "$vm_err")"
tiny "256 GiB, at the IOMMU's limit" 60 huge -m 64M --vfio "$hole" --cmdline "hole=256"
tiny "both together" 60 huge -m 64M --vfio "$far" --vfio "$hole" --cmdline "far=64 hole=256"

# Four times 256 GiB and the 64 are more than 40 bits of address have, this host's.
bits=$(sed -n 's/^address sizes.*: \([0-9]*\) bits physical.*/\1/p' /proc/cpuinfo | head -n 1)
equal "the host's physical addresses" 40 "$bits"
for i in 1 2 3; do
    vfio-emu --socket /tmp/emu$i.sock --once gpu,vram=256G 2>&1 &
    echo $! >>/tmp/pids
done
vm_start "too large" --debug-exit 0xf4 -m 64M --vfio "$far" --vfio "$hole" --vfio unix:/tmp/emu1.sock \
    --vfio unix:/tmp/emu2.sock --vfio unix:/tmp/emu3.sock /guests/huge.elf
vm_end 60
equal "too large: status" 4 "$status"
equal "too large: no guest has run" "" "$(cat "$vm_out")"
check "too large: the numbers are named" grep -qE "^minivmm: .*cannot place.*0x[0-9a-f]+.*${bits}[- ]bit.*; pass fewer" "$vm_err"
release "$far" "$hole"
