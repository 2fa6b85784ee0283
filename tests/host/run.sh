#!/bin/bash
# Boots the software host and runs scenarios in it:
#
#     tests/host/run.sh [-f FLAVOUR] [-t SECONDS] [-q] [-s] NAME SCENARIO...
#
# The software host is a QEMU machine (TCG) with what this one lacks: an AMD CPU
# that virtualises, an Intel IOMMU, and devices to hand over. Results come out as
# lines PASS/FAIL/SKIP/NOTE on standard output while it runs (-q: not shown) and
# stay in build/host/NAME/results; consoles, every guest's output and pictures are
# beside it. -t is the limit for all of it (default 300 s), after which QEMU is
# ended; -f says which of three hosts it is: stock, Debian's kernel on the machine's QEMU; debian, the
# same with a disk (debian.sh) and more memory; or built,
# a kernel of our own (built.sh) on a QEMU that has igb; -s gives a shell in the host after the scenarios, on this terminal.
# HOST_CPU says on which CPU of this machine QEMU runs: the Nth that is allowed, 0 by default.
# To look closer: HOST_QEMU adds words to QEMU's command line (-s for gdb), and
# the directory HOST_EXTRA is laid over the host's root (a strace, a gdbserver).
# Status: 0 when the host ran to its end, whatever the results are; 3 when it died on the
# way, which is a fault of the host or of QEMU and of nothing that runs in a guest; 1 for
# any other error.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

{ # read to its end before it runs: an edit meanwhile does not break a running test
limit=300 quiet='' shell='' flavour=stock
while getopts f:t:qs opt; do
    case $opt in
    f) flavour=$OPTARG ;;
    t) limit=$OPTARG ;;
    q) quiet=1 ;;
    s) shell=1 ;;
    *) die "usage: run.sh [-f stock|debian|built] [-t SECONDS] [-q] [-s] NAME SCENARIO..." ;;
    esac
done
shift $((OPTIND - 1))
name=${1:?a name for this run}
shift
scenarios=$(IFS=,; echo "$*")

# The words that start a QEMU of version 8 or later: the machine's own or one from Debian's
# backports with its own libraries; where neither is to be had, what the machine has, without igb.
igb=''
newer_qemu() {
    local root libs
    igb=1
    [ "$(qemu-system-x86_64 --version | sed -n '1s/.*version \([0-9]*\).*/\1/p')" -lt 8 ] || return 0
    root=$("$HOST_DIR/fetch.sh" qemu) || { igb=''; return 0; }
    libs=$root/lib/x86_64-linux-gnu
    program=("$libs/ld-linux-x86-64.so.2" --library-path "$libs:$root/usr/lib/x86_64-linux-gnu"
        "$root/usr/bin/qemu-system-x86_64" -L "$root/usr/share/qemu" -L "$root/usr/share/seabios")
}

images=$BUILD/host/images dir=$BUILD/host/$name
rm -rf "$dir"
mkdir -p "$dir"
: >"$dir/results"

# The disk: its first 4 MiB hold data that a guest can recognise (seed 1).
truncate -s 64M "$dir/disk.raw"
"$BUILD/host/bin/data" write "$dir/disk.raw" 0 $((4 << 20)) 1 >/dev/null

# The memory behind the huge BAR, almost all of it a hole; its first and its last page hold data
# (seed 5).
truncate -s 64G "$dir/far"
for at in 0 $(((64 << 30) - 4096)); do
    "$BUILD/host/bin/data" write "$dir/far" $at 4096 5 >/dev/null
done

cat "$images/host-base.cpio" "$images/host-run.cpio" >"$dir/initrd"
case ,$scenarios, in
*,kernels,*) cat "$images/host-kernels.cpio" >>"$dir/initrd" ;; # 50 MB to unpack
esac
if [ "${HOST_EXTRA:-}" ]; then
    pack "$HOST_EXTRA" "$dir/extra"
    cat "$dir/extra" >>"$dir/initrd"
    rm "$dir/extra"
fi
mkfifo "$dir"/{qmp,control}.{in,out}
exec {qmp_in}<>"$dir/qmp.in" {qmp_out}<>"$dir/qmp.out"
exec {ctl_in}<>"$dir/control.in" {ctl_out}<>"$dir/control.out"

program=(qemu-system-x86_64) memory=2G debian=''
case $flavour in
stock | debian)
    kernel=$images/vmlinux
    cat "$images/host-modules.cpio" >>"$dir/initrd"
    if [ "$flavour" = debian ]; then
        memory=3G
        debian=$("$HOST_DIR/debian.sh")
    fi
    ;;
built)
    kernel=$("$HOST_DIR/built.sh")/bzImage
    newer_qemu
    ;;
*) die "no such flavour: $flavour; there are: stock debian built" ;;
esac

append="console=ttyS0 panic=-1 no_timer_check intel_iommu=on iommu=pt quiet unknown_nmi_panic scenarios=$scenarios limit=$((limit - 25))"
[ -z "$shell" ] || append+=" shell=1"
[ -z "$debian" ] || append+=" helpers=1"
# shellcheck disable=SC2054 # the commas are QEMU's own
machine=(
    -name "minivmm-host-$name"
    # One CPU: QEMU's VMRUN leaves the vector of an interrupt that it injected in
    # exception_index; a CPU that is then asked to leave its loop (which another CPU of
    # this machine does all the time) delivers it once more, also where the guest has
    # interrupts off: panics in error_entry, triple faults, about one guest in ten. A
    # guest's vCPUs are threads of the host, it may have as many as it likes.
    # Without XSAVE: TCG runs a guest's XSETBV without the exit that SVM asks for, so
    # KVM never learns of the guest's XCR0 and puts its own back at each entry. The
    # guest's kernel then finds a size that does not fit ("XSAVE consistency problem")
    # and loses registers, and with two vCPUs the host's kernel itself died of it.
    # AVX without XSAVE is no CPU that a kernel expects: aesni_intel uses it and crashes.
    -M q35,kernel-irqchip=split -accel tcg -cpu max,xsave=off,avx=off,avx2=off -smp 1 -m "$memory"
    -nodefaults -nographic -no-reboot -nic none -vga none
    # Before every device that is to be behind it.
    -device intel-iommu,intremap=on,caching-mode=on
    -kernel "$kernel" -initrd "$dir/initrd" -append "$append"
    # Results, what the scenarios leave, and requests to this script.
    -device virtio-serial-pci,bus=pcie.0
    -chardev "file,id=results,path=$dir/results,append=on" -device virtserialport,chardev=results,name=results
    -chardev "file,id=files,path=$dir/files.tar" -device virtserialport,chardev=files,name=files
    -chardev "pipe,id=control,path=$dir/control" -device virtserialport,chardev=control,name=control
    -chardev "pipe,id=qmp,path=$dir/qmp" -mon chardev=qmp,mode=control
    # The card of the usage line: an expander bridge with bus number 0x41 and a
    # root port put it at 0000:42:00, display and sound in one IOMMU group.
    -device pxb-pcie,bus_nr=0x41,id=pxb,bus=pcie.0
    -device pcie-root-port,id=rp0,bus=pxb,chassis=1,slot=1
    -device bochs-display,id=screen,bus=rp0,addr=0.0,multifunction=on
    -audiodev none,id=silence
    -device intel-hda,id=sound,bus=rp0,addr=0.1 -device hda-duplex,bus=sound.0,audiodev=silence
    # Each of these has a root port, so a group, of its own.
    -device pcie-root-port,id=rp1,bus=pcie.0,chassis=2,slot=2
    -drive "file=$dir/disk.raw,format=raw,if=none,id=disk"
    -device nvme,serial=minivmm,drive=disk,bus=rp1
    -device pcie-root-port,id=rp2,bus=pcie.0,chassis=3,slot=3
    # The network card's peer is the host's own virtio card on the same hub:
    # nothing of it reaches this machine.
    -netdev hubport,hubid=1,id=net0 -device e1000e,netdev=net0,bus=rp2,romfile=,mac=52:54:00:00:00:02
    -netdev hubport,hubid=1,id=net1 -device virtio-net-pci,netdev=net1,bus=pcie.0,romfile=,mac=52:54:00:00:00:01
    -device pcie-root-port,id=rp3,bus=pcie.0,chassis=4,slot=4
    -device edu,bus=rp3,dma_mask=0xffffffffffff
    # Two devices that share a group, as they are behind one conventional bridge.
    -device pcie-root-port,id=rp4,bus=pcie.0,chassis=5,slot=5
    -device pcie-pci-bridge,id=pci,bus=rp4
    -chardev "file,id=line,path=$dir/pci-serial" -device pci-serial,chardev=line,bus=pci,addr=1
    -device pci-testdev,bus=pci,addr=2
    # One that can report errors (AER): the network card has the capability but no enable bits.
    -device pcie-root-port,id=rp7,bus=pcie.0,chassis=8,slot=8
    -device virtio-rng-pci,id=faulty,aer=on,bus=rp7
    # A card with the legacy VGA ranges, of another kind than the one above: no driver of the
    # host takes it.
    -device pcie-root-port,id=rp8,bus=pcie.0,chassis=9,slot=9 -device cirrus-vga,bus=rp8,romfile=
)
# Huge BARs: one with memory behind it up to its end, and one of which there is only the size. Not
# beside igb: they push the BARs of its virtual functions up to 832 GiB, where QEMU 10 has zeros in
# place of their registers (seen from the host's own CPU, through sysfs).
if [ "$flavour" = stock ]; then
    # shellcheck disable=SC2054
    machine+=(
        -device pcie-root-port,id=rp5,bus=pcie.0,chassis=6,slot=6
        -object "memory-backend-file,id=far,size=64G,mem-path=$dir/far,share=on"
        -device ivshmem-plain,memdev=far,bus=rp5
        -device pcie-root-port,id=rp6,bus=pcie.0,chassis=7,slot=7
        -device pci-testdev,membar=256G,bus=rp6
    )
fi
# What is written to the disk is forgotten at the end.
if [ "$debian" ]; then
    # shellcheck disable=SC2054
    machine+=(
        -drive "file=$debian/disk,format=raw,if=none,id=debian,snapshot=on"
        -device virtio-blk-pci,drive=debian,bus=pcie.0
    )
fi
# shellcheck disable=SC2206 # HOST_QEMU is meant to be several words
machine+=(${HOST_QEMU:-})
if [ "$shell" ]; then
    # shellcheck disable=SC2054
    machine+=(-chardev stdio,id=console,signal=off -serial chardev:console)
else
    machine+=(-serial "file:$dir/console")
fi
# A network card with virtual functions, on the same hub as the others.
if [ "$igb" ]; then
    # shellcheck disable=SC2054
    machine+=(
        -device pcie-root-port,id=rpv,bus=pcie.0,chassis=20,slot=20
        -netdev hubport,hubid=1,id=netv -device igb,netdev=netv,bus=rpv,romfile=,mac=52:54:00:00:00:03
    )
fi

# All threads of QEMU on one CPU of this machine. Its VMRUN and #VMEXIT change the word of
# pending interrupts without the lock under which another thread sets a bit in it when a timer
# has run out; on two CPUs that bit gets lost now and then, and the host, idle, sleeps for ever
# (seen: HLT, interrupts on, the clock stopped). On one CPU a thread is never interrupted
# in the middle of an instruction, so nothing is lost.
allowed=$(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/self/status)
cpus=()
for range in ${allowed//,/ }; do
    for ((i = ${range%-*}; i <= ${range#*-}; i++)); do cpus+=("$i"); done
done
cpu=${cpus[${HOST_CPU:-0} % ${#cpus[@]}]}

qemu=
end_qemu() {
    [ -z "$qemu" ] || kill -KILL "$qemu" 2>/dev/null || true
    rm -f "$dir"/{qmp,control}.{in,out} "$dir/initrd" "$dir/far"
}
trap end_qemu EXIT
trap 'exit 130' INT TERM
if [ "$shell" ]; then
    taskset -c "$cpu" "${program[@]}" "${machine[@]}" <&0 2>"$dir/qemu.err" &
else
    taskset -c "$cpu" "${program[@]}" "${machine[@]}" </dev/null >"$dir/qemu.out" 2>"$dir/qemu.err" &
fi
qemu=$!

# monitor COMMAND ARGUMENTS [SHOW]: one QMP command; ok (its answer printed with SHOW), or what
# QEMU said was wrong.
monitor() {
    local reply
    echo "{\"execute\":\"$1\",\"arguments\":$2}" >&"$qmp_in"
    while read -r -t 30 -u "$qmp_out" reply; do
        case $reply in
        *'"return"'*)
            [ -z "${3:-}" ] || echo -e "${reply//\\r/}"
            return 0
            ;;
        *'"error"'*) echo "QEMU: $reply"; return 1 ;;
        esac
    done
    echo "QEMU does not answer"
    return 1
}

# picture FILE DEVICE SIZE TEXT: saves a card's screen and compares every pixel
# with what the guest says that it drew.
picture() {
    local file=$dir/$1 size=$3 x y
    [[ $size =~ ^[0-9]+x[0-9]+$ ]] || { echo "the guest names no size: '$size'"; return 1; }
    monitor screendump "{\"filename\":\"$file.ppm\",\"device\":\"$2\"}" || return 1
    monitor screendump "{\"filename\":\"$file.png\",\"device\":\"$2\",\"format\":\"png\"}" || return 1
    x=${size%x*} y=${size#*x}
    "$BUILD/host/bin/draw" --ppm "$x" "$y" "$4" >"$file.want.ppm"
    cmp "$file.want.ppm" "$file.ppm" 2>&1 || return 1
    rm "$file.want.ppm" "$file.ppm"
}

serve() { # REQUEST: from a scenario, answered with one line
    local what rest answer
    read -r what rest <<<"$1"
    case $what in
    picture)
        local file device size text
        read -r file device size text <<<"$rest"
        answer=$(picture "$file" "$device" "$size" "$text") && answer=ok
        ;;
    # data OFFSET BYTES SEED: on the raw file behind the disk, outside
    data)
        local offset bytes seed
        read -r offset bytes seed <<<"$rest"
        answer=$("$BUILD/host/bin/data" check "$dir/disk.raw" "$offset" "$bytes" "$seed" 2>&1) && answer=ok
        ;;
    # far OFFSET BYTES SEED: in the memory behind the huge BAR
    far)
        local offset bytes seed
        read -r offset bytes seed <<<"$rest"
        answer=$("$BUILD/host/bin/data" check "$dir/far" "$offset" "$bytes" "$seed" 2>&1) && answer=ok
        ;;
    # aer DEVICE ERROR: the device says that this happened to it (QEMU knows it by id=)
    aer)
        answer=$(monitor human-monitor-command "{\"command-line\":\"pcie_aer_inject_error $rest\"}" show)
        [[ $answer != *'"OK '* ]] || answer=ok
        ;;
    # grep FILE TEXT: in what a device wrote outside
    grep)
        local file text
        read -r file text <<<"$rest"
        if grep -qF -e "$text" "$dir/$file"; then answer=ok; else answer="no '$text' in $file"; fi
        ;;
    *) answer="unknown request: $1" ;;
    esac
    echo "${answer//$'\n'/ }" >&"$ctl_in"
}

# Its greeting, or its last words.
for _ in {1..30}; do
    if read -r -t 1 -u "$qmp_out" _; then break; fi
    kill -0 "$qemu" 2>/dev/null || die "QEMU did not start: $(cat "$dir/qemu.err")"
done
monitor qmp_capabilities '{}' || die "QEMU did not start: $(cat "$dir/qemu.err")"
shown=0 heard=0 late='' half=''
show() {
    local n
    n=$(wc -l <"$dir/results")
    if [ "$n" -gt "$shown" ]; then
        [ "$quiet" ] || sed -n "$((shown + 1)),${n}{/^NOTE alive/!p}" "$dir/results"
        shown=$n heard=$SECONDS
    fi
}
SECONDS=0
while kill -0 "$qemu" 2>/dev/null; do
    # A line may come in two halves: what was read when the time was up is the first.
    if read -r -t 0.5 -u "$ctl_out" request; then
        serve "$half$request"
        half=''
    else
        half+=$request
    fi
    show
    if [ "$SECONDS" -gt "$limit" ] && [ -z "$shell" ]; then
        late="was still running after $limit s"
    elif [ $((SECONDS - heard)) -gt 120 ] && [ -z "$shell" ]; then
        late="has been silent for two minutes"
    fi
    if [ "$late" ]; then
        # Where it is: an NMI makes its kernel say so on the console, if it still can.
        {
            for what in registers lapic irq; do
                monitor human-monitor-command "{\"command-line\":\"info $what\"}" show
            done
            monitor inject-nmi '{}'
        } >"$dir/registers" || true
        sleep 5
        kill -KILL "$qemu" 2>/dev/null || true
        break
    fi
done
wait "$qemu" 2>/dev/null || true
qemu=
show
[ ! -s "$dir/files.tar" ] || tar -C "$dir" --no-same-owner -xf "$dir/files.tar" && rm -f "$dir/files.tar"
if [ "$late" ]; then
    say "run.sh: the software host $late; see $dir"
    exit 3
elif ! grep -q '^NOTE end' "$dir/results"; then
    say "run.sh: the software host ended early; see $dir/console and $dir/qemu.err: $(tail -n 1 "$dir/qemu.err")"
    exit 3
fi
exit 0
}
