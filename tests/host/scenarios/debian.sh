# A guest that people can work in: a Debian on a raw disk (debian.sh), with the command lines that
# the README has. It boots to a login beside the passed-through card, is told to power off by a signal, and
# loses its power while it writes; its file system is looked at outside each time.
cd /disk/debian || exit
ran=0
in_guest() { # COMMAND: on the console, as root; what it printed is in the .out file
    ran=$((ran + 1))
    vm_type "$1; echo @''@ DONE $ran \$?"
    vm_wait "@@ DONE $ran 0" 120
}
log_in() {
    check "$vm: boots to a login" vm_wait "debian login:" 240 || exit
    vm_type root
    check "$vm: root logs in" in_guest "true"
}
power_off() { # by a signal: systemd-logind hears the power button
    kill -TERM $vm_pid
    vm_end 120
    equal "$vm: SIGTERM powers it off" 0 "$status"
}
fsck() { # the partition behind the first MiB
    e2fsck -fn "debian.raw?offset=1048576"
}

check "hand over the card" to_vfio $CARD $SOUND
echo 512 >/proc/sys/vm/nr_hugepages
vm_start card --vfio 42:00 --cpus 2 --memory 1G --hugepages --disk debian.raw --initrd initrd.img \
    --cmdline "root=/dev/vda1 ro" vmlinuz
log_in
check "card: its driver has the display" in_guest "test -e /sys/bus/pci/drivers/bochs-drm/*:*:*.0/drm"
check "card: the sound card is known" in_guest "grep -q HDA /proc/asound/cards"
check "card: two CPUs, 1 GiB" in_guest "test \$(nproc) = 2 -a \$(awk '/MemTotal/ {print \$2}' /proc/meminfo) -gt 900000"
check "card: nothing failed to start" in_guest "systemctl is-system-running --wait | grep -q running"
power_off
equal "card: all huge pages are back" 512 "$(awk '/HugePages_Free/ { print $2 }' /proc/meminfo)"
check "file system is clean" fsck
echo 0 >/proc/sys/vm/nr_hugepages

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
