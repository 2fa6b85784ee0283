#!/usr/bin/env bash
# emulated.sh [NAME...]: runs the tiny guests for passed-through devices (guests/README.md) in
# minivmm, each with a vfio-emu (emulated/README.md) for its device: what a table of runs says.
# Then what the guest cannot see is looked up in the server's trace: that direct memory and
# doorbells cost no message, that no file stays open.
#
# Verdicts, variables and log files are explained in guests/run.sh; LOG.server is the server's.
# $EMU is the server, by default the one beside $MINIVMM.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
KIND=emulated
. tests/guests/run.sh

EMU=${EMU:-$(dirname "$MINIVMM")/vfio-emu}
if ! [ -x "$EMU" ]; then
    verdict "FAIL emulated: there is no $EMU; run make emu"
    exit 1
fi
T=$(mktemp -d "${TMPDIR:-/tmp}/minivmm-emu.XXXXXX")
servers=()
trap 'stop_servers; rm -rf "$T"' EXIT

# serve NAME DEVICE: its socket is $T/NAME. It need not listen yet: minivmm waits a moment.
serve() {
    rm -f "$T/$1"
    "$EMU" --socket "$T/$1" --once --trace "$2" >>"$server_log" 2>&1 3>&- &
    servers+=($!)
}

stop_servers() {
    local pid
    for pid in "${servers[@]}"; do
        kill "$pid" 2>/dev/null # it has ended with its client, if all is well
        wait "$pid" 2>/dev/null
    done
    servers=()
}

# emu NAME DEVICE STATUS ARGUMENT...: minivmm with a server's device; $opts are --vfio's.
emu() {
    local name=$1 device=$2 want=$3 server_log=$LOGS/$1.log.server
    shift 3
    wanted "$name" || return 0
    : >"$server_log"
    [ "$no_kvm" ] || serve dev.sock "$device"
    run "$name" "$want" --vfio "unix:$T/dev.sock${opts:+,$opts}" "$@"
    stop_servers
    if grep -qa 'ERROR: .*Sanitizer\|runtime error:' "$server_log"; then
        verdict "FAIL $KIND/$name: the server has a fault of its own ($server_log)"
    fi
}

# guest NAME DEVICE FILE WORDS ARGUMENT...
guest() {
    local name=$1 device=$2 file=$3 words=$4
    shift 4
    emu "$name" "$device" 1 -m 64M --debug-exit 0xf4 "$@" --cmdline "$words" "$G/$file.elf"
}

# --- what the guest cannot see: each prints what is wrong ---

# accesses LOG REGIONS [OFFSETS]: how many the server has seen.
accesses() {
    grep -acE "^<- [0-9]+ REGION_(READ|WRITE).* offset ${3:-[^ ]*} region $2 " "$1.server"
}

direct_memory() {
    local n
    n=$(accesses "$1" '(0x1|0x3)')
    [ "$n" -eq 0 ] || echo "the server saw $n accesses to memory that is mapped"
    n=$(accesses "$1" 0 0xbb00..)
    [ "$n" -eq 0 ] || echo "the server saw $n doorbells that were to come by ioeventfd"
}

trapped_memory() { # the same test must be able to fail
    [ "$(accesses "$1" 0x1)" -gt 0 ] || echo "the server saw no access to memory"
}

one_line() {
    local n
    n=$(grep -ac 'minivmm: .*cannot' "$1")
    [ "$n" -eq 1 ] || echo "$n messages, not one"
}

no_reset() {
    ! grep -am1 '^<- [0-9]* DEVICE_RESET' "$1.server"
}

no_line() {
    ! grep -am1 'minivmm: .*cannot' "$1"
}

powered_off() {
    tail -n1 "$1" | grep -qa '^[a-z]*: pass' || echo "its last line is not a pass"
}

# Files open at the first and the last of many resets, in minivmm and in the server; tells the
# guest to go on.
count_files() {
    local boot i
    for boot in 1 20; do
        for ((i = 0; i < 400; i++)); do
            grep -q "^boot $boot.\?$" "$1" && break
            sleep 0.05
        done
        sleep 0.05
        echo "$(ls "/proc/$(cat "$1.pid")/fd" | wc -l) $(ls "/proc/${servers[0]}/fd" | wc -l)"
        printf x >&4
    done 4>&1 >"$1.files"
}

same_files() {
    local first last
    { read -r first && read -r last; } <"$1.files"
    [ "$first" ] && [ "$first" = "$last" ] ||
        echo "open files of minivmm and server: $first after the first reset, $last after the last"
}

# --- the runs ---

# A BAR as large as it gets: its own size is also its alignment, and the other 64-bit BAR follows.
bits=$(sed -nE 's/^address sizes.*: ([0-9]+) bits physical.*/\1/p;T;q' /proc/cpuinfo)
gib=$((1 << (${bits:-36} - 32)))
[ $gib -le 256 ] || gib=256
echo "gpu's BAR1 has $gib GiB: physical addresses have ${bits:-36} bits"

also=direct_memory guest platform platform platform ""
also=powered_off emu platform-flat platform 0 "$G/platform.bin" # as it is in the README
guest platform-high platform platform "rounds=100" -m 3200M      # RAM above 4 GiB as well
guest platform-automask-off platform,automask=off platform "rounds=1000 edge"
also=trapped_memory guest platform-mmap-off platform,mmap=off platform "rounds=100 pages=1"
guest platform-dma-message platform,dma=message platform "rounds=100"
guest platform-dma-one-socket platform,dma=message,twin=off,xfer=512 platform "rounds=100"

also=direct_memory guest gpu "gpu,vram=${gib}G" gpu "vram=$((gib * 1024))"
guest gpu-mmap-off gpu,mmap=off,vram=64M gpu "vram=64"
guest gpu-one-descriptor gpu,fds=1,twin=off gpu ""
guest gpu-dma-message gpu,dma=message gpu "" -m 3200M
guest gpu-strict gpu,strict=on gpu ""
guest gpu-strict-kvm gpu,strict=on gpu "refused" --cpuid kvm

guest gpu-nvidia gpu,nvidia=on gpu "nvidia"
guest gpu-nvidia-mmap-off gpu,nvidia=on,mmap=off,vram=64M gpu "nvidia vram=64"
opts=clique=11 guest gpu-clique gpu,nvidia=on gpu "nvidia clique=11"
{
    printf '\x55\xaa'
    head -c 4997 /dev/zero
    printf 'w' # 0x77
} >"$T/rom"
opts=rom=$T/rom guest gpu-rom gpu gpu "rom=8"
opts=rom=off guest gpu-rom-off gpu gpu "rom=0"
also=no_reset opts=reset=off guest gpu-reset-off gpu gpu ""

guest wild-platform platform wild ""
guest wild-gpu gpu wild "" --cpus 2
guest wild-nvidia gpu,nvidia=on wild "" --cpus 2
if wanted wild-both && [ ! "$no_kvm" ]; then
    server_log=$LOGS/wild-both.log.server2 serve second.sock gpu
fi
guest wild-both platform wild "" --cpus 2 --vfio "unix:$T/second.sock"
guest wild-seed gpu wild "seed=$((RANDOM + 1))" --cpus 2 # another one each time; the log has it

also=same_files input=count_files guest reset-platform platform platform "reboots=20"
also=same_files input=count_files guest reset-gpu gpu gpu "reboots=20"
also=one_line guest reset-lost platform,fault=die@150 platform "reboots=5 faults=lost"

for fault in die short long huge badid badcmd fds hang; do
    also=one_line guest "lost-$fault" "platform,fault=$fault@60" platform "faults=lost"
done
also=one_line guest lost-gpu gpu,fault=die@700 gpu "faults=lost"
also=no_line guest error-once platform,fault=error@60 platform "faults=error"
exit $failed
