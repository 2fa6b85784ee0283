# The stock kernel by itself, with one and with two CPUs: boots, has nothing to
# complain about, keeps time, and ends as it was told to.
vm_run "1 CPU" 240 0 --initrd $GUEST --cmdline "$QUIET t=boot cpus=1" $BZIMAGE
vm_run "2 CPUs" 240 0 --cpus 2 --initrd $GUEST --cmdline "$QUIET t=boot cpus=2" $BZIMAGE
