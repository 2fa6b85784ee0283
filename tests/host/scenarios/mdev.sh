# A mediated device, the kernel's sample: a card with two serial ports that loop. Made by minivmm
# for the VM and gone when it ends; made by hand, passed by its UUID, and still there afterwards.
types=/sys/class/mdev_bus/mtty/mdev_supported_types/mtty-2
free() { cat $types/available_instances; }
devices() { ls /sys/bus/mdev/devices; }
before=$(free)
minivmm host list >/tmp/list
check "host list has the parent and its types" grep -q '^mtty .* mtty-1 mtty-2' /tmp/list

vm_start made --cpus 2 --vfio mdev:mtty/mtty-2 --initrd $GUEST --cmdline "$QUIET t=mdev boots=2" $KERNEL
check "a guest with a device made for it" vm_wait "@@ INIT" 240
equal "it is one mediated device" 1 "$(devices | wc -w)"
equal "of so many that the parent can have" $((before - 1)) "$(free)"
vm_end 240
vm_results
equal "exit status" 0 "$status"
equal "it is removed when the VM ends" "" "$(devices)"
equal "and may be made again" "$before" "$(free)"

uuid=6f1f4b5e-2a4c-4f4b-9d7b-3a3c5a0e8d11
echo $uuid >$types/create
vm_start killed --vfio $uuid --initrd $GUEST --cmdline "$QUIET t=mdev then=wait" $KERNEL
vm_wait "@@ READY" 240 || fail "a guest to kill" "$(tail -n 1 "$vm_err")"
vm_kill
vm_run "by UUID" 240 0 --vfio $uuid --initrd $GUEST --cmdline "$QUIET t=mdev" $KERNEL
equal "it is its maker's to remove" $uuid "$(devices)"
echo 1 >/sys/bus/mdev/devices/$uuid/remove

minivmm --vfio mdev:mtty/mtty-9 --initrd $GUEST $KERNEL </dev/null >/dev/null 2>/tmp/said
equal "a type that is not there: status" 4 $?
check "and is named" grep -q '^minivmm: .*mtty/mtty-9: ' /tmp/said
cat /tmp/said
equal "nothing is left" "" "$(devices)"
