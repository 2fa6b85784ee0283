# A folder of the host's in the guest, in two boots: minivmm starts virtiofsd, Debian 12's in C as a user
# who is in more groups than one, the one in Rust as root, and ends it; one that runs already, and is
# killed while the guest runs: the guest goes on, and through a reset. What the data costs in exits to
# minivmm is counted by KVM.
PATH=$PATH:/usr/libexec:/usr/lib/qemu # where minivmm looks, too
if ! which virtiofsd >/dev/null; then
    skip "all of it" "there is no virtiofsd in this software host"
    return
fi
bytes=$((16 << 20))
share=/disk/share # no tmpfs: while files go there, the server in Rust loses its place in a directory
mount -t debugfs none /sys/kernel/debug 2>/dev/null
chmod 666 /dev/kvm
echo user:100000:65536 | tee /etc/subuid >/etc/subgid
fill() { # what the guest finds
    mkdir -p $share
    rm -rf ${share:?}/*
    : >$share/host && : >$share/name
    data write $share/host 0 $bytes 52 >/dev/null
    chown -R user $share
}
serve() { # BOOTS ARGUMENT...: a guest, which is seen to do its work in each boot
    local boot=1 boots=$1 before exits
    shift
    fill
    vm_start "$@" --initrd $GUEST $KERNEL
    while :; do
        check "$vm: boot $boot: guest has mounted it" vm_wait "@@ READY" 240 $boot
        read -r before </sys/kernel/debug/kvm/mmio_exits
        vm_type go
        check "$vm: boot $boot: guest has done its work" vm_wait "@@ DONE" 240 $boot
        read -r exits </sys/kernel/debug/kvm/mmio_exits
        exits=$((exits - before))
        # None was ever seen. Where every kick exits (no ioeventfds), more than 3000.
        note "share: $exits exits to user space for 32 MiB and 200 files"
        if [ "$before" -gt 0 ] && [ $exits -lt 8 ]; then
            pass "$vm: boot $boot: no exit to user space on the way"
        else
            fail "$vm: boot $boot: no exit to user space on the way" "$before before, then $exits"
        fi
        check "$vm: boot $boot: the guest's file" data check $share/guest 0 $bytes 51
        equal "$vm: boot $boot: the renamed one" 640 "$(stat -c %a $share/renamed)"
        equal "$vm: boot $boot: nothing else" "guest host renamed" "$(ls $share | tr '\n' ' ' | sed 's/ $//')"
        [ $boot -lt "$boots" ] || break
        boot=$((boot + 1))
        fill
        vm_type on
    done
}
end() {
    vm_type on
    vm_end 240
    vm_results
    equal "$vm: exit status" 0 "$status"
    equal "$vm: its server ended with it" "" "$(pgrep -f -- --fd=3)"
}

minivmm() { PATH=/usr/bin:$PATH exec /usr/bin/setpriv --reuid 1000 --regid 1000 --groups 1000,20 /bin/minivmm "$@"; }
serve 2 user --share $share:work --cmdline "$QUIET t=share boots=2"
unset -f minivmm
equal "user: the guest's files are the user's" "user user" "$(stat -c %U $share/guest $share/renamed | tr '\n' ' ' | sed 's/ $//')"
end

if [ -e /rust/virtiofsd ]; then
    minivmm() { PATH=/rust:$PATH exec /bin/minivmm "$@"; }
    serve 2 rust --share $share:work --cmdline "$QUIET t=share boots=2"
    unset -f minivmm
    end
else
    skip "rust" "there is no virtiofsd in Rust in this software host"
fi

# One that runs already, and dies.
virtiofsd --socket-path=/tmp/fs.sock -o source=$share -o sandbox=chroot >/out/share/virtiofsd 2>&1 &
echo $! >>/tmp/pids
for i in 1 2 3 4 5; do [ -S /tmp/fs.sock ] || pause; done
serve 1 killed --share unix:/tmp/fs.sock:work --cmdline "$QUIET t=share dies=1 boots=2"
kill -KILL $(pidof virtiofsd)
pause
end
equal "killed: said once" 1 "$(grep -c "its server closed the connection" "$vm_err")"
