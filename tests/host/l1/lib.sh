# shellcheck shell=busybox
# What a scenario in the software host calls. A scenario is a shell script
# (busybox ash) that starts guests with vm_*, looks at what they left, and
# reports each check on one line with pass, fail or skip. Everything a guest
# prints stays in /out/$scenario/NAME.{out,err} and is carried out at the end.
#
# Guests report through /dev/kmsg, so each of their lines is whole even when the
# guest's kernel talks at the same time: "@@ PASS name", "@@ FAIL name: why",
# "@@ READY" and so on. vm_results turns them into results of the scenario.

# The stock kernel as its package has it, and the ELF file inside it: a guest that need
# not decompress its kernel starts ten emulated seconds earlier. Scenarios that are about
# booting take the first, the others the second.
IMAGES=/images
BZIMAGE=$IMAGES/kernel.bin
KERNEL=$IMAGES/vmlinux
GUEST=$IMAGES/guest.img
QUIET="console=ttyS0 quiet panic=-1"

# A process costs some 20 ms in this emulated machine: what is called often uses
# read, which is the shell's own, where cat would do.
port_results=/dev/null port_files=/dev/null port_control=/dev/null
for port in /sys/class/virtio-ports/*; do
    read -r name <"$port/name" && eval "port_$name=/dev/${port##*/}"
done
report() { echo "$*" >"$port_results"; }
pass() { report "PASS $scenario: $1"; }
fail() { report "FAIL $scenario: $1: $2"; }
skip() { report "SKIP $scenario: $1: $2"; }
note() { report "NOTE $*"; }

# check NAME COMMAND...: pass when the command succeeds, fail with what it printed.
check() {
    local name=$1 said
    shift
    if said=$("$@" 2>&1); then pass "$name"; else fail "$name" "$(echo "$* : $said" | tr '\n' ' ' | cut -c1-300)"; fi
}
# equal NAME WANTED GOT
equal() {
    if [ "$2" = "$3" ]; then pass "$1"; else fail "$1" "wanted '$2', got '$3'"; fi
}

# ask REQUEST: has the machine outside do something (run.sh has the list), waits
# until it is done. The answer is one line; 'ok' means done.
ask() {
    local answer
    exec 7<>"$port_control"
    echo "$*" >&7
    read -r -t 30 answer <&7 || answer="no answer"
    exec 7>&-
    [ "$answer" = ok ] || { echo "$answer"; return 1; }
}

### devices

# device VENDOR DEVICE [N]: address of the Nth (default 1st) device with these ids
device() {
    local d v i n=${3:-1}
    for d in /sys/bus/pci/devices/*; do
        read -r v <"$d/vendor" && read -r i <"$d/device"
        [ "$v $i" = "0x$1 0x$2" ] || continue
        n=$((n - 1))
        [ $n -gt 0 ] || { echo "${d##*/}"; return; }
    done
    return 1
}
driver_of() { # ADDRESS
    local l
    l=$(readlink "/sys/bus/pci/devices/$1/driver") && echo "${l##*/}"
}
group_of() { # ADDRESS
    local l
    l=$(readlink "/sys/bus/pci/devices/$1/iommu_group") && echo "${l##*/}"
}
release() { # ADDRESS...: bound to nothing, any driver may take it
    local a
    for a; do
        [ ! -e "/sys/bus/pci/devices/$a/driver" ] || echo "$a" >"/sys/bus/pci/devices/$a/driver/unbind"
        echo >"/sys/bus/pci/devices/$a/driver_override"
    done
}
bind() { # DRIVER ADDRESS...
    local d=$1 a
    shift
    for a; do
        release "$a"
        echo "$d" >"/sys/bus/pci/devices/$a/driver_override"
        echo "$a" >/sys/bus/pci/drivers_probe
        [ "$(driver_of "$a")" = "$d" ] || { echo "$a did not bind to $d"; return 1; }
    done
}
[ -e /proc/modules ] || modprobe() { :; } # all of it is built in
to_vfio() { bind vfio-pci "$@"; }
to_host() { # MODULE DRIVER ADDRESS: back to the host's own driver
    modprobe "$1" && bind "$2" "$3"
}

CARD=0000:42:00.0
SOUND=0000:42:00.1
disk_address() { device 1b36 0010; }
net_address() { device 8086 10d3; }
edu_address() { device 1234 11e8; }
far_address() { device 1af4 1110; }    # 64 GiB of memory
hole_address() { device 1b36 0005 2; } # 256 GiB of nothing

card_rom() { # the display card's expansion ROM, as the host reads it
    local d=/sys/bus/pci/devices/$CARD
    release $CARD
    echo 1 >$d/enable
    echo 1 >$d/rom
    cat $d/rom
    echo 0 >$d/rom
    echo 0 >$d/enable
}

# peer_up: the host's virtio card in a network namespace of its own, 10.9.9.1, so that what the
# host itself sends there goes over the wire. It sends /tmp/stream (md5: $sum) on port 7001 and
# answers on port 7002 with the md5 of what it received.
in_peer() { nsenter -t $peer -n "$@"; }
peer_up() {
    local l
    modprobe virtio_net
    unshare -n sleep 100000 &
    peer=$!
    echo $peer >>/tmp/pids
    sleep 1
    for l in /sys/class/net/*; do
        [ "$(cat "$l/address")" != 52:54:00:00:00:01 ] || ip link set "${l##*/}" netns $peer name wire
    done
    in_peer ip link set wire up
    in_peer ip addr add 10.9.9.1/24 dev wire
    dd if=/dev/urandom of=/tmp/stream bs=64k count=4 2>/dev/null
    sum=$(md5sum </tmp/stream)
    sum=${sum%% *}
    in_peer nc -ll -p 7001 -e cat /tmp/stream &
    echo $! >>/tmp/pids
    in_peer nc -ll -p 7002 -e md5sum &
    echo $! >>/tmp/pids
}
reach() { # the link takes a while to come up, and the first packets are lost
    for _ in 1 2 3 4 5 6 7 8 9 10; do ping -c 1 -W 3 10.9.9.1 && return; done
}

### guests

panics=

# vm_start NAME ARGUMENT...: minivmm in the background, its console on a pipe.
# The guest's input stays open, so a guest that waits for a line waits.
vm_start() {
    vm=$1
    shift
    vm_out=/out/$scenario/$vm.out vm_err=/out/$scenario/$vm.err
    rm -f "/tmp/$vm.in"
    : >"$vm_out" # it is there when someone looks at it at once
    mkfifo "/tmp/$vm.in"
    exec 6<>"/tmp/$vm.in"
    echo "$ minivmm $*"
    minivmm "$@" <"/tmp/$vm.in" >"$vm_out" 2>"$vm_err" 6>&- &
    vm_pid=$!
    echo $vm_pid >>/tmp/pids
}
vm_type() { echo "$1" >&6; } # a line on the guest's console

# Seconds since the software host started, and waiting, both without a process: the guest has
# only what is left of the one CPU.
tick() { read -r now _ </proc/uptime && now=${now%.*}; }
pause() { read -r -t 1 _ <&8 || true; }
[ -p /tmp/never ] || mkfifo -m 666 /tmp/never # for an ordinary user, too
exec 8<>/tmp/never

# Whether minivmm runs; a zombie does not.
vm_runs() {
    local stat
    read -r stat <"/proc/$vm_pid/stat" 2>/dev/null || return 1
    stat=${stat##*) }
    [ "${stat%% *}" != Z ]
}

# vm_wait TEXT SECONDS [COUNT]: until the guest's console has TEXT (COUNT times)
vm_wait() {
    local until count=${3:-1}
    tick && until=$((now + $2))
    while [ "$(grep -c -a -e "$1" "$vm_out")" -lt "$count" ]; do
        tick
        if [ "$now" -ge "$until" ] || ! vm_runs; then
            [ "$(grep -c -a -e "$1" "$vm_out")" -lt "$count" ] || return 0
            echo "guest $vm: no '$1' (wanted $count times); last: $(vm_last)"
            return 1
        fi
        pause
    done
}

# vm_end SECONDS: until minivmm ends by itself; leaves its status in $status,
# 'timeout' when it had to be killed.
vm_end() {
    local until killed=
    tick && until=$((now + $1))
    while vm_runs; do
        tick
        if [ "$now" -ge "$until" ]; then
            killed=1
            kill -KILL $vm_pid
            break
        fi
        pause
    done
    wait $vm_pid
    status=$?
    exec 6>&-
    [ -z "$killed" ] || status=timeout
    echo "minivmm ended: $status"
}
vm_kill() { # the hard way: no cleaning up by minivmm
    kill -KILL $vm_pid
    wait $vm_pid
    exec 6>&-
}
reap() { # nothing of a scenario outlives it
    local p
    for p in $(cat /tmp/pids 2>/dev/null); do kill -KILL "$p" 2>/dev/null; done
    rm -f /tmp/pids
}

# draws NAME COUNT: what the guest of test `display` drew in its COUNTth boot is on the card's screen
draws() {
    vm_wait "@@ DRAWN" 240 "$2" >/tmp/why || { fail "$1" "$(cat /tmp/why)"; return 1; }
    local drawn
    drawn=$(grep -a -o "@@ DRAWN .*" "$vm_out" | tail -n 1 | tr -d '\r')
    check "$1" ask picture "$(echo "$1" | tr ' ' '-')" screen ${drawn#@@ DRAWN }
}

vm_last() { echo "$(tail -n 2 "$vm_out" | tr -d '\r' | tr '\n' ' ') $(tail -n 2 "$vm_err")"; }

# vm_results: the guest's own PASS and FAIL lines become results of the scenario. A kernel
# that panics reboots, and the second time all may be well: that is a failure, too, but where
# the scenario asked for it (panics=yes).
vm_results() {
    local oops
    oops=$(grep -a -m 1 -E 'Kernel panic|BUG:|Oops|Call Trace' "$vm_out" | tr -d '\r')
    [ -z "$oops" ] || [ "$panics" ] || fail "$vm: the kernel is well" "$oops"
    tr -d '\r' <"$vm_out" | sed -n 's/.*@@ \(PASS\|FAIL\|SKIP\) /\1 /p' >/tmp/results
    [ -s /tmp/results ] || fail "$vm: the guest reports" "it said nothing; last: $(vm_last)"
    while read -r what text; do report "$what $scenario: $vm: $text"; done </tmp/results
}

# vm_run NAME SECONDS WANTED_STATUS ARGUMENT...: all of it
vm_run() {
    local name=$1 limit=$2 want=$3
    shift 3
    vm_start "$name" "$@"
    vm_end "$limit"
    vm_results
    if [ "$status" = "$want" ]; then
        pass "$name: exit status"
    else
        fail "$name: exit status" "wanted $want, got $status; last: $(vm_last)"
    fi
}

# tiny NAME SECONDS GUEST ARGUMENT...: one of tests/guests, which says by its status (the
# debug-exit port's, 1 is a pass) whether all that it looked at was well.
tiny() {
    local name=$1 limit=$2 guest=$3
    shift 3
    vm_start "$name" --debug-exit 0xf4 "$@" "/guests/$guest.elf"
    vm_end "$limit"
    if [ "$status" = 1 ]; then
        pass "$name"
    else
        fail "$name" "status $status: $(grep -a '^FAIL' "$vm_out" | head -n 3 | tr -d '\r' | tr '\n' ' ') last: $(tail -n 1 "$vm_out" | tr -d '\r') $(tail -n 1 "$vm_err")"
    fi
}
