# How a stock kernel ends, each with its own exit status: power off (every other
# scenario has that), reset by each way a kernel knows, triple fault, and the
# user's and the host's ways to end minivmm.
vm_run "reboot=acpi" 240 6 --no-reboot --initrd $GUEST --cmdline "$QUIET reboot=a t=none then=reboot" $KERNEL
vm_run "reboot=keyboard" 240 6 --no-reboot --initrd $GUEST --cmdline "$QUIET reboot=k t=none then=reboot" $KERNEL
vm_run "reboot=triple" 240 8 --initrd $GUEST --cmdline "$QUIET reboot=t t=none then=reboot" $KERNEL
panics=yes
vm_run "panic" 240 6 --no-reboot --initrd $GUEST --cmdline "$QUIET t=none then=crash" $KERNEL
panics=

vm_start "SIGTERM" --initrd $GUEST --cmdline "$QUIET t=none then=wait" $KERNEL
vm_wait "@@ READY" 240
kill -TERM $vm_pid
vm_end 30
equal "SIGTERM: exit status" 143 "$status"

vm_start "Ctrl-A x" --initrd $GUEST --cmdline "$QUIET t=none then=wait" $KERNEL
vm_wait "@@ READY" 240
printf '\001x' >&6
vm_end 30
equal "Ctrl-A x: exit status" 0 "$status"
