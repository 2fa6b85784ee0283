# Can a guest find out that it is one? The real tools, in the guest; then the same
# with KVM's signature shown, which they must find, or they prove nothing.
vm_run "hidden" 240 0 --initrd $IMAGES/guest-tools.img --cmdline "$QUIET t=tools" $KERNEL
vm_run "hidden, 2 CPUs" 240 0 --cpus 2 --initrd $IMAGES/guest-tools.img --cmdline "$QUIET t=tools" $KERNEL
vm_run "shown" 240 0 --cpuid kvm --initrd $IMAGES/guest-tools.img --cmdline "$QUIET t=tools hidden=0" $KERNEL
