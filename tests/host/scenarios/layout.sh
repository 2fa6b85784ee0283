# Is the software host what the other scenarios take it for? The card at its
# address, each device in a group of its own, the two behind the bridge in one.
check "KVM is there" test -c /dev/kvm
check "VFIO is there" test -c /dev/vfio/vfio
equal "display card at $CARD" "0x1234 0x1111" "$(cat /sys/bus/pci/devices/$CARD/vendor /sys/bus/pci/devices/$CARD/device | tr '\n' ' ' | sed 's/ $//')"
check "sound function at $SOUND" test -e /sys/bus/pci/devices/$SOUND
members() { ls "/sys/bus/pci/devices/$1/iommu_group/devices" | tr '\n' ' '; }
equal "group of the card" "$CARD $SOUND " "$(members $CARD)"
for d in $(disk_address) $(net_address) $(edu_address); do
    equal "group of $d is its own" "$d " "$(members "$d")"
done
check "the pair shares a group" test "$(group_of "$(device 1b36 0002)")" = "$(group_of "$(device 1b36 0005)")"
for d in /sys/bus/pci/devices/*; do
    echo "${d##*/} $(cat "$d/vendor") $(cat "$d/device") group $(group_of "${d##*/}") driver $(driver_of "${d##*/}")"
done
for d in /sys/bus/pci/devices/*; do
    read -r v <"$d/vendor" && read -r i <"$d/device"
    echo "${d##*/} $v $i group $(group_of "${d##*/}")"
done
