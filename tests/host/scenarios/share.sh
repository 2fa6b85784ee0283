# A folder of the host's in the guest: minivmm starts virtiofsd and ends it; one that runs already, and
# is killed while the guest runs: the guest goes on, and through a reset.
PATH=$PATH:/usr/libexec:/usr/lib/qemu # where minivmm looks, too
if ! which virtiofsd >/dev/null; then
    skip "all of it" "there is no virtiofsd in this software host"
    return
fi
bytes=$((16 << 20))
fill() { # DIR: what the guest finds
    rm -rf "$1"
    mkdir -p "$1"
    : >"$1/host" && : >"$1/name"
    data write "$1/host" 0 $bytes 52 >/dev/null
    chmod 777 "$1"
    chmod 666 "$1"/*
}
found() { # WHO DIR: what the guest left
    check "$1: the guest's file" data check "$2/guest" 0 $bytes 51
    equal "$1: the renamed one" "640" "$(stat -c %a "$2/renamed")"
    equal "$1: nothing else" "guest host renamed" "$(ls "$2" | tr '\n' ' ' | sed 's/ $//')"
}
servers() { pidof virtiofsd | wc -w; }

share=/dev/shm/share/a
fill $share
vm_run "own server" 300 0 --share $share:work --initrd $GUEST --cmdline "$QUIET t=share" $KERNEL
found "own server" $share
equal "own server: it ended with the VM" 0 "$(servers)"

# One that runs already, and dies.
fill $share
virtiofsd --socket-path=/tmp/fs.sock -o source=$share -o sandbox=chroot >/out/share/virtiofsd 2>&1 &
echo $! >>/tmp/pids
for i in 1 2 3 4 5; do [ -S /tmp/fs.sock ] || pause; done
vm_start killed --share unix:/tmp/fs.sock:work --initrd $GUEST --cmdline "$QUIET t=share dies=1 boots=2" $KERNEL
check "guest is ready" vm_wait "@@ READY" 240
found "running server" $share
kill -KILL $(pidof virtiofsd)
pause
vm_type on
vm_end 240
vm_results
equal "server killed: exit status" 0 "$status"
equal "server killed: said once" 1 "$(grep -c "its server closed the connection" "$vm_err")"
