# The card of the usage line: display and sound, two functions on one slot of the
# guest. The guest draws; the picture on the card's screen is compared pixel by
# pixel outside. Three times: in a fresh guest, after the guest reset itself, and
# after minivmm was killed without a chance to clean up. Then the host's own
# driver must be able to have the card back.
modprobe bochs
bind bochs-drm $CARD || fail "host's driver has the card first" "$(driver_of $CARD)"
check "hand over" to_vfio $CARD $SOUND

vm_start card --vfio $CARD --vfio $SOUND --initrd $GUEST --cmdline "$QUIET t=display boots=2" $BZIMAGE
draws "picture" 1 && vm_type go
draws "picture after a reset" 2 && vm_type go
vm_end 240
vm_results
equal "exit status" 0 "$status"

vm_start killed --vfio $CARD --vfio $SOUND --initrd $GUEST --cmdline "$QUIET t=display" $KERNEL
vm_wait "@@ DRAWN" 240
vm_kill
vm_start again --vfio $CARD --vfio $SOUND --initrd $GUEST --cmdline "$QUIET t=display" $KERNEL
draws "picture after kill -9" 1 && vm_type go
vm_end 240
vm_results

check "card back to the host's driver" to_host bochs bochs-drm $CARD
check "host's driver made its screen" test -e /sys/class/drm/card0
