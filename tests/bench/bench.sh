#!/usr/bin/env bash
# bench.sh (make bench): how long things take, in this program and beside others. It prints and
# never fails on a figure: the machine's speed, and what else it does, are in them. What compares
# is a ratio within one run: the programs take turns.
#
# QEMU and kvmtool (lkvm) are measured where they are installed, system calls where strace is.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit

RUNS=${RUNS:-20}
B=build/bench
T=$(mktemp -d "${TMPDIR:-/tmp}/minivmm-bench.XXXXXX")
server=
trap '[ ! "$server" ] || kill $server; rm -rf "$T"' EXIT
minivmm=(build/minivmm --debug-exit 0xf4 -m 64M --log-level warn)

if ! (: <>/dev/kvm) 2>/dev/null; then
    echo "bench: cannot use /dev/kvm; make demo-ci says what to do" >&2
    exit 1
fi

# --- from start to end: rows of NAME, COMMAND; each a guest of a few instructions ---

names=() commands=()
row() {
    names+=("$1")
    shift
    commands+=("$(printf '%q ' "$@")")
}

missing=
row "the KVM calls alone" $B/bare $B/first.bin # the measure of the others
row "minivmm" "${minivmm[@]}" $B/first.elf
if qemu=$(command -v qemu-system-x86_64); then
    row "$("$qemu" --version | sed -nE '1s/^(QEMU).* version ([0-9.]*).*/\1 \2 microvm/p')" \
        "$qemu" -M microvm,acpi=off -accel kvm -m 64M -nodefaults -no-user-config -display none \
        -serial stdio -no-reboot -device isa-debug-exit,iobase=0xf4,iosize=1 -kernel $B/first.elf
else
    missing+=" QEMU"
fi
if lkvm=$(command -v lkvm || command -v kvmtool); then
    row "kvmtool" "$lkvm" run -m 64 --console serial --kernel $B/first.bin
else
    missing+=" kvmtool"
fi
build/vfio-emu --socket "$T/dev.sock" platform >/dev/null &
server=$!
row "minivmm with vfio-emu's platform" "${minivmm[@]}" -v "unix:$T/dev.sock" $B/first.elf
row "the same, the device's tiny guest" "${minivmm[@]}" -v "unix:$T/dev.sock" \
    --cmdline "rounds=100 pages=1" build/guests/platform.elf # 200 interrupts, DMA, resets

for ((i = 0; i < RUNS; i++)); do
    for n in "${!names[@]}"; do
        eval "$B/run ${commands[n]}" >>"$T/$n" 2>>"$T/$n.err"
    done
done

median() { # FILE COLUMN
    sort -n -k "$2,$2" "$1" | awk -v c="$2" '{ v[NR] = $c } END { print v[int((NR + 1) / 2)] }'
}

echo "$(sed -n 's/^model name.*: //p;T;q' /proc/cpuinfo), Linux $(uname -r), $(nproc) processors, load $(cut -d' ' -f1 /proc/loadavg)"
echo
printf '%-36s %22s %22s\n' "median of $RUNS runs" "to first instruction" "whole run"
for n in "${!names[@]}"; do
    first=$(median "$T/$n" 1) total=$(median "$T/$n" 2)
    [ "$n" -gt 0 ] || base=$first base_total=$total
    if [ "$(median "$T/$n" 3)" -ne 1 ]; then
        printf '%-36s fails: %s\n' "${names[n]}" "$(tail -n1 "$T/$n.err")"
        continue
    fi
    awk -v name="${names[n]}" -v f="$first" -v t="$total" -v bf="$base" -v bt="$base_total" 'BEGIN {
        printf "%-36s ", name
        if (f < 1e9) printf "%9.1f ms  x %6.1f ", f / 1000, f / bf
        else printf "%23s", ""
        printf " %9.1f ms  x %6.1f\n", t / 1000, t / bt }'
done
[ ! "$missing" ] || echo "not installed:$missing"

# --- between a guest and a device ---

echo
echo "a guest and vfio-emu's platform, medians of 201 (a software KVM adds to all of them)"
timeout 60 "${minivmm[@]}" -v "unix:$T/dev.sock" $B/device.elf </dev/null | tr -d '\r' |
    awk -F': ' '/ ns$/ { printf "%-36s %12s\n", $1, $2 } /FAIL/'

# --- system calls before the guest runs ---

echo
if ! command -v strace >/dev/null; then
    echo "system calls: strace is not installed"
    exit 0
fi
calls() { # NAME COMMAND...: of all threads, up to the first KVM_RUN
    local name=$1
    shift
    strace -f -qq -o "$T/calls" "$@" </dev/null >/dev/null 2>&1
    awk -v name="$name" '
        /KVM_RUN/ { exit }
        { sub(/^[0-9]+ +/, ""); n++; sub(/\(.*/, ""); kind[$0]++ }
        END {
            printf "%-36s %5d system calls before KVM_RUN:", name, n
            while (shown++ < 5) {
                top = ""
                for (k in kind) if (top == "" || kind[k] > kind[top]) top = k
                printf " %s %d", top, kind[top]; delete kind[top]
            }
            print ""
        }' "$T/calls"
}
calls "the KVM calls alone" $B/bare $B/first.bin
calls "minivmm" "${minivmm[@]}" $B/first.elf
[ ! "$qemu" ] || eval "calls 'QEMU microvm' ${commands[2]}"
calls "minivmm with vfio-emu's platform" "${minivmm[@]}" -v "unix:$T/dev.sock" $B/first.elf
