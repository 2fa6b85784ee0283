# By hand (tests/emulated/README.md): libvfio-user's GPIO sample, a server that others wrote, and
# the driver that Linux has for the card that it plays. The sample's program has to be laid over
# the host's root with HOST_EXTRA, so this is no part of `make check`.
if [ ! -x /bin/gpio-pci-idio-16 ]; then
    skip "libvfio-user" "no /bin/gpio-pci-idio-16 in HOST_EXTRA"
    exit
fi
gpio-pci-idio-16 -v /tmp/gpio.sock 2>&1 &
echo $! >>/tmp/pids
vm_run "Linux" 240 0 --vfio unix:/tmp/gpio.sock --initrd $GUEST --cmdline "$QUIET t=gpio" $KERNEL
