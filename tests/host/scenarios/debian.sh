# A guest that people can work in: a Debian on a raw disk (debian.sh) and the two command lines of
# the README. It boots to a login beside the passed-through card; one logs in by ssh through a tap, and
# through passt and a shared folder when nothing is root; a signal powers it off; it loses its
# power while it writes. Its file system is looked at outside each time.
cd /disk/debian || exit
ran=0
in_guest() { # COMMAND: on the console, as root; what it printed is in the .out file
    ran=$((ran + 1))
    vm_type "$1; echo @''@ DONE $ran \$?"
    vm_wait "@@ DONE $ran 0" 120
}
log_in() {
    check "$vm: boots to a login" vm_wait "debian login:" 240
    vm_type root
    check "$vm: root logs in" in_guest "true"
}
by_ssh() { # HOST PORT COMMAND
    timeout 120 ssh -i key -p "$2" -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
        -o LogLevel=ERROR -o ConnectTimeout=60 "root@$1" "$3"
}
power_off() { # by a signal: systemd-logind hears the power button
    kill -TERM $vm_pid
    vm_end 120
    equal "$vm: SIGTERM powers it off" 0 "$status"
}
fsck() { # the partition behind the first MiB
    e2fsck -fn "debian.raw?offset=1048576"
}
sum_of() { md5sum "$@" | cut -c1-32; }

dd if=/dev/urandom of=/tmp/data bs=64k count=16 2>/dev/null
sum=$(sum_of /tmp/data)
modprobe tun
modprobe vhost_net
tunctl -t tap0
ip addr add 10.9.8.1/24 dev tap0
ip link set tap0 up
check "hand over the card" to_vfio $CARD $SOUND
echo 512 >/proc/sys/vm/nr_hugepages
vm_start card --vfio 42:00 --cpus 2 --memory 1G --hugepages --disk debian.raw --net tap=tap0 --initrd initrd.img \
    --cmdline "root=/dev/vda1 ro" vmlinuz
log_in
check "card: its driver has the display" in_guest "test -e /sys/bus/pci/drivers/bochs-drm/*:*:*.0/drm"
check "card: the sound card is known" in_guest "grep -q HDA /proc/asound/cards"
check "card: two CPUs, 1 GiB" in_guest "test \$(nproc) = 2 -a \$(awk '/MemTotal/ {print \$2}' /proc/meminfo) -gt 900000"
check "card: nothing failed to start" in_guest "systemctl is-system-running --wait | grep -q running"
equal "card: ssh through the tap" "debian $sum" "$(by_ssh 10.9.8.2 22 'cat >data; sync; echo $(hostname) $(md5sum <data | cut -c1-32)' </tmp/data 2>&1)"
equal "card: and back" "$sum" "$(by_ssh 10.9.8.2 22 'cat data' 2>/tmp/why </dev/null | sum_of)"
power_off
equal "card: all huge pages are back" 512 "$(awk '/HugePages_Free/ { print $2 }' /proc/meminfo)"
check "file system is clean" fsck
echo 0 >/proc/sys/vm/nr_hugepages

# Nothing is root: minivmm, passt, virtiofsd, and nothing may write to the image. passt gives the
# guest the addresses of the host's card, and leaves by its default route.
modprobe virtio_net
for link in /sys/class/net/*; do
    [ "$(cat "$link/address")" != 52:54:00:00:00:01 ] || link=${link##*/} && break
done
ip addr add 10.9.9.1/24 dev "$link"
ip link set "$link" up
ip route add default via 10.9.9.254
chmod 666 /dev/kvm
mkdir -p /tmp/home/work
cp /tmp/data /tmp/home/work/from-host
chown -R user:user /tmp/home
ln -s $PWD/debian.raw /tmp/home/image.raw
before=$(stat -c %Y debian.raw)
# Without any group but its own: Debian 12's virtiofsd gives up where it cannot leave the others.
minivmm() { cd /tmp/home && exec /usr/bin/setpriv --reuid 1000 --regid 1000 --clear-groups /bin/minivmm "$@"; }
vm_start user --disk image.raw,ro --net passt,tcp=2222:22 --share ./work:/work --initrd /disk/debian/initrd.img \
    --cmdline "root=/dev/vda1 ro systemd.volatile=state console=ttyS0" /disk/debian/vmlinuz
unset -f minivmm
log_in
equal "user: minivmm is not root" 1000 "$(awk '/^Uid/ { print $2 }' /proc/$vm_pid/status)"
check "user: the disk is read-only" in_guest "test \$(cat /sys/block/vda/ro) = 1"
check "user: the folder can be mounted" in_guest "mount -t virtiofs /work /mnt"
equal "user: ssh through passt; host's file in the guest" "$sum" \
    "$(by_ssh 127.0.0.1 2222 'tee /mnt/from-guest </mnt/from-host | md5sum | cut -c1-32' 2>&1 </dev/null)"
equal "user: guest's file in the host, the user's own" "$sum user" \
    "$(sum_of /tmp/home/work/from-guest) $(stat -c %U /tmp/home/work/from-guest)"
power_off
equal "user: nobody wrote to the image" "$before" "$(stat -c %Y debian.raw)"

# Power cut: each number is printed when it was fsynced, so it must be there afterwards.
vm_start cut --disk debian.raw --initrd initrd.img --cmdline "root=/dev/vda1 ro console=ttyS0" vmlinuz
log_in
vm_type 'n=0; while n=$((n + 1)); do echo $n | dd of=records oflag=append conv=notrunc,fsync status=none && echo "@@ SAFE $n @@"; done'
check "records are written" vm_wait "@@ SAFE 60 @@" 120
vm_kill
last=$(sed -n 's/.*@@ SAFE \([0-9]*\) @@.*/\1/p' "$vm_out" | tail -n 1)
vm_start after --disk debian.raw --initrd initrd.img --cmdline "root=/dev/vda1 ro console=ttyS0" vmlinuz
log_in
check "all that was fsynced is there after a power cut ($last records)" in_guest "seq $last | diff - <(head -n $last records)"
power_off
check "file system is clean after the power cut" fsck
