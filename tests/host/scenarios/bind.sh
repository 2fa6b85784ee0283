# minivmm host: list and check on a host with an IOMMU, of which nothing is bound, and of one that
# is ready; devices taken from their drivers and given back, each by a name of another kind; and
# refused, with the user's name, while a mounted swap, an open file, a network interface, the
# console or a guest uses them. What it prints is carried out: *.txt.
disk=$(disk_address) nic=$(net_address) serial=$(device 1b36 0002) pair=$(device 1b36 0005)
edu=$(edu_address)
drivers() { for d in /sys/bus/pci/devices/*; do echo "${d##*/} $(driver_of "${d##*/}")"; done; }

# host WANTED_STATUS ARGUMENT...: what it says is shown and left in /tmp/said
host() {
    local want=$1
    shift
    minivmm host "$@" >/tmp/said 2>&1
    status=$?
    cat /tmp/said
    [ $status -eq "$want" ] || { echo "status $status, not $want"; return 1; }
}
# refused NAME PATTERN ARGUMENT...: it says who the user is, and no driver has changed
refused() {
    local name=$1 pattern=$2 before
    shift 2
    before=$(drivers)
    host 4 "$@" >>/tmp/log || { fail "$name" "$(tail -n 2 /tmp/log | tr '\n' ' ')"; return; }
    cat /tmp/said
    if [ "$(wc -l </tmp/said)" -ne 1 ] || ! grep -qE "^minivmm: $pattern" /tmp/said; then
        fail "$name" "$(cat /tmp/said)"
    else
        equal "$name" "$before" "$(drivers)"
    fi
}

# --- nothing is bound ---
release $CARD $SOUND "$disk" "$nic" "$serial" "$pair" "$edu" # whatever scenarios before left
modprobe bochs
modprobe nvme
modprobe e1000e
bind bochs-drm $CARD
bind nvme "$disk"
bind e1000e "$nic"
bind serial "$serial"
host 0 list >/out/$scenario/list-unbound.txt
host 4 check 42:00 >/out/$scenario/check-unbound.txt || fail "check, nothing bound" "$(tail -n 1 /tmp/said)"
check "check: the machine itself is ready" test "$(sed '/^0000/,$d' /tmp/said | grep -c '^  no ')" = 0
check "check: this card is not" grep -q 'minivmm host bind 0000:42:00.0' /tmp/said
host 0 list --json >/out/$scenario/list.json
equal "list --json: one array" "[ ]" "$(sed -n '1p;$p' /out/$scenario/list.json | tr '\n' ' ' | sed 's/ $//')"
check "list: the card" grep -q "$CARD  1234:1111  0x038000 .* bochs-drm .*0:16M" /out/$scenario/list-unbound.txt

# --- in use ---
dd if=/dev/nvme0n1 of=/tmp/head bs=4k count=1 2>/dev/null
mkswap /dev/nvme0n1
swapon /dev/nvme0n1
refused "a disk that is swapped on" "$disk: .*swapping.*/dev/nvme0n1.*swapoff" bind "$disk"
refused "by its ID" "1b36:0010: .*1 of this ID wanted, 1 there, 0 of them free" bind 1b36:0010
swapoff /dev/nvme0n1
dd if=/tmp/head of=/dev/nvme0n1 bs=4k 2>/dev/null
sleep 1000 </dev/nvme0n1 &
reader=$!
echo $reader >>/tmp/pids
refused "a disk that a process has open" "$disk: .*process $reader \(sleep\)" bind "$disk"
kill $reader
wait $reader
link=$(ls "/sys/bus/pci/devices/$nic/net")
ip link set "$link" up
refused "a network card that is up" "$nic: .*interface $link" bind "${nic#0000:}"
ip link set "$link" down
echo console >/dev/tty1
sleep 2
refused "a card with the console" "$CARD: .*console \(fb0\)" bind 42:00
console=$(grep -o '/sys/class/vtconsole/[a-z0-9]*/bind' /tmp/said)
[ -z "$console" ] || echo 0 >"$console"
before=$(drivers)
su user -c "minivmm host bind $CARD" >/tmp/said 2>&1
equal "an ordinary user: status" 4 $?
check "an ordinary user is told" grep -q "^minivmm: host: .*run it as root" /tmp/said
equal "an ordinary user changes nothing" "$before" "$(drivers)"

# --- bound ---
check "bind a card" host 0 bind 42:00
equal "both functions" "vfio-pci vfio-pci" "$(driver_of $CARD) $(driver_of $SOUND)"
check "bind by ID" host 0 bind 1b36:0010
equal "the disk" vfio-pci "$(driver_of "$disk")"
check "bind a path" host 0 bind "/sys/bus/pci/devices/$nic"
bridge=$(driver_of "$(basename "$(readlink -f "/sys/bus/pci/devices/$serial/..")")")
check "bind one of a group" host 0 bind "$serial"
equal "the group's other device as well" "vfio-pci vfio-pci" "$(driver_of "$serial") $(driver_of "$pair")"
equal "but not the bridge" "$bridge" "$(driver_of "$(basename "$(readlink -f "/sys/bus/pci/devices/$serial/..")")")"
check "bind what has no driver" host 0 bind "$edu"
host 0 list >/out/$scenario/list-ready.txt
check "check: ready" host 0 check 42:00
cp /tmp/said /out/$scenario/check-ready.txt

# --- a guest uses it ---
vm_start guest --vfio 42:00,slot=5 --initrd $GUEST --cmdline "$QUIET t=none then=wait" $KERNEL
check "a guest with the card by its short name" vm_wait "@@ READY" 240
check "and its sound" grep -q "$SOUND: BAR" "$vm_err"
refused "a card that a guest has" "$CARD: .*process $vm_pid \(minivmm\)" unbind $CARD
check "check: in use" host 4 check $CARD
vm_kill

# --- given back ---
check "unbind one function" host 0 unbind $SOUND
equal "the card has its driver again, its sound none" "bochs-drm " "$(driver_of $CARD) $(driver_of $SOUND)"
check "unbind the others" host 0 unbind "$disk" "$nic" "$serial" "$edu"
equal "they have theirs" "nvme e1000e serial  " \
    "$(driver_of "$disk") $(driver_of "$nic") $(driver_of "$serial") $(driver_of "$pair") $(driver_of "$edu")"
check "nothing is remembered" test -z "$(ls /run/minivmm)"
n=0
while [ ! -e /dev/nvme0n1 ] && [ $n -lt 50 ]; do usleep 200000; n=$((n + 1)); done
check "the host's driver reads the disk" dd if=/dev/nvme0n1 of=/dev/null bs=1M count=1
release $CARD "$disk" "$nic" "$serial"
