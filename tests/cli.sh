#!/usr/bin/env bash
# cli.sh: what minivmm says when it cannot do what it was told. Each row is a command, the exit
# status it has to give (2 bad command line, 4 could not start) and a pattern for its message:
# exactly one line on standard error that begins with `minivmm: `, nothing on standard output.
# Then help and version, and the terminal, which every way out leaves as it was.
#
# Prints and writes to build/results/cli.txt (or $RESULT) verdicts as tiny.sh does. $MINIVMM is
# the program to test. Errors of devices that exist are tested in the software host (host/).
set -uo pipefail
cd "$(dirname "$0")/.." || exit

RESULT=${RESULT:-build/results/cli.txt}
G=$PWD/build/guests
failed=0
make -s guests || exit 1
mkdir -p "$(dirname "$RESULT")"
: >"$RESULT"

# Everything in a folder that an unprivileged user may read as well.
T=$(mktemp -d "${TMPDIR:-/tmp}/minivmm-cli.XXXXXX")
trap 'rm -rf "$T"' EXIT
chmod 755 "$T"
cp "${MINIVMM:-build/minivmm}" "$T/minivmm"
M=$T/minivmm

verdict() {
    echo "$1" | tee -a "$RESULT"
    [[ $1 != FAIL* ]] || failed=1
}

# row NAME STATUS PATTERN COMMAND...: PATTERN is what grep -E finds in the message.
row() {
    local name=$1 want=$2 pattern=$3 status why=
    shift 3
    timeout 20 "$@" </dev/null >"$T/out" 2>"$T/err"
    status=$?
    if [ $status -ne "$want" ]; then
        why="status $status, not $want"
    elif [ -s "$T/out" ]; then
        why="it writes to standard output"
    elif [ "$(wc -l <"$T/err")" -ne 1 ] || [ "$(tail -c1 "$T/err" | wc -l)" -ne 1 ]; then
        why="not exactly one line on standard error"
    elif ! grep -q '^minivmm: .' "$T/err"; then
        why="its message does not begin with 'minivmm: '"
    elif ! grep -qE -- "$pattern" "$T/err"; then
        why="its message does not say /$pattern/"
    fi
    if [ "$why" ]; then
        verdict "FAIL cli/$name: $why: $(head -c 300 "$T/err" | tr '\n' '|')"
    else
        verdict "PASS cli/$name"
    fi
}

skip() {
    verdict "SKIP cli/$1: $2"
}

# --- files ---

# bytes FILE OFFSET TEXT: puts TEXT (with printf's escapes) there.
bytes() {
    # shellcheck disable=SC2059
    printf "$3" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

# A kernel that does nothing: cli; hlt; and again.
idle=$T/idle.bin
printf '\372\364\353\374' >"$idle"
pvh=$G/serial.elf

: >"$T/empty"
head -c 100 "$pvh" >"$T/elf-header"
head -c 5000 "$pvh" >"$T/elf-half"
cp "$pvh" "$T/elf-arm" && bytes "$T/elf-arm" 18 '\267\000'
cp "$pvh" "$T/elf-mips" && bytes "$T/elf-mips" 5 '\002' # big-endian
echo hello | gzip >"$T/gzip"
truncate -s 4096 "$T/xz" "$T/zstd" "$T/qcow2" "$T/bzimage-half" "$T/bzimage-old" "$T/pe"
bytes "$T/xz" 0 '\3757zXZ\000'
bytes "$T/zstd" 0 '\050\265\057\375'
bytes "$T/qcow2" 0 'QFI\373\000\000\000\003'
bytes "$T/pe" 0 'MZ'
bytes "$T/pe" 60 '\200'
bytes "$T/pe" 128 'PE\000\000\144\206'
for f in bzimage-half bzimage-old; do # boot protocol: setup_sects, boot_flag, jump, HdrS
    bytes "$T/$f" $((0x1f1)) '\004'
    bytes "$T/$f" $((0x1fe)) '\125\252\353\152HdrS\017\002'
    bytes "$T/$f" $((0x211)) '\001'
    bytes "$T/$f" $((0x1f4)) '\000\377\000\000' # protected-mode code of 1 MiB
done
truncate -s 2M "$T/bzimage-old"
bytes "$T/bzimage-old" $((0x206)) '\001\002'
truncate -s 64K "$T/iso" "$T/disk"
bytes "$T/iso" 32769 'CD001'
bytes "$T/disk" 446 '\200\001\001\000\203\376\377\377\000\010\000\000\000\020\000\000'
bytes "$T/disk" 510 '\125\252'
truncate -s 100M "$T/initrd"
mkfifo "$T/fifo"
mkdir "$T/directory"
cp "$idle" "$T/unreadable" && chmod 0 "$T/unreadable"
chmod 644 "$T"/*.bin
long=$(printf '%070000d' 0)

# --- the command line ---

row no-kernel 2 'no kernel' "$M"
row two-kernels 2 'second kernel' "$M" "$idle" "$T/empty"
row unknown-option 2 '--frobnicate.*--help' "$M" --frobnicate "$idle"
row unknown-letter 2 '-Z' "$M" -Z "$idle"
row abbreviated-option 2 '--mem' "$M" --mem 64M "$idle"
row argument-missing 2 'missing' "$M" "$idle" --memory
row argument-missing-letter 2 'missing' "$M" "$idle" -m
row argument-unwanted 2 'no value' "$M" --no-reboot=1 "$idle"
row memory-zero 2 '--memory.*0' "$M" -m 0 "$idle"
row memory-tiny 2 '--memory.*1' "$M" -m 1 "$idle"
row memory-negative 2 '--memory.*-5' "$M" -m -5 "$idle"
row memory-suffix 2 '12Q' "$M" -m 12Q "$idle"
row memory-two-suffixes 2 '1GB' "$M" -m 1GB "$idle"
row memory-fraction 2 '1[.]5G' "$M" -m 1.5G "$idle"
row memory-empty 2 '--memory' "$M" -m "" "$idle"
row memory-overflow 2 '99999999T' "$M" -m 99999999T "$idle"
row memory-odd 2 'page' "$M" -m 1048577 "$idle"
row hugepages-size 2 '--hugepages.*3M' "$M" --hugepages=3M "$idle"
row cpus-zero 2 '--cpus.*0' "$M" --cpus 0 "$idle"
row cpus-negative 2 '--cpus.*-1' "$M" --cpus -1 "$idle"
row cpus-word 2 '--cpus.*many' "$M" --cpus many "$idle"
row cpus-suboption 2 'dies=2.*sockets=S' "$M" --cpus 4,dies=2 "$idle"
row cpus-product 2 '4,cores=3.*product' "$M" --cpus 4,cores=3 "$idle"
row cpus-pin-few 2 'pin=0-2.*one for each' "$M" --cpus 4,pin=0-2 "$idle"
row numa-word 2 '--numa.*near.*auto' "$M" --numa near "$idle"
row cpuid-word 2 '--cpuid.*never' "$M" --cpuid never "$idle"
row cpuid-vendor-long 2 '--cpuid.*12' "$M" --cpuid vendor=abcdefghijklm "$idle"
row cpuid-vendor-empty 2 '--cpuid' "$M" --cpuid vendor= "$idle"
row debug-exit-word 2 '--debug-exit' "$M" --debug-exit port "$idle"
row debug-exit-large 2 '0x10000' "$M" --debug-exit 0x10000 "$idle"
row entry-word 2 '--entry.*virtual' "$M" --entry virtual "$idle"
row entry-address 2 '--entry' "$M" --entry long@nowhere "$idle"
row entry-address-large 2 '--entry' "$M" --entry long@0x100000000 "$idle"
row disk-suboption 2 'rw: .*ro or direct|rw.*ro or direct' "$M" --disk "$T/disk,rw" "$idle"
row share-no-tag 2 '--share.*DIR:TAG' "$M" --share "$T" "$idle"
row vsock-of-the-host 2 '--vsock.*from 3 on' "$M" --vsock 2 "$idle"
row disk-empty-name 2 '--disk' "$M" --disk ",ro" "$idle"
row stop-timeout-word 2 '--stop-timeout.*soon' "$M" --stop-timeout soon "$idle"
row stop-timeout-negative 2 '--stop-timeout.*-1' "$M" --stop-timeout -1 "$idle"
row name-empty 2 '--name' "$M" --name "" "$idle"
row name-blank 2 '--name.*a b' "$M" --name "a b" "$idle"
row name-long 2 '--name' "$M" --name "${long:0:65}" "$idle"
row log-level 2 '--log-level' "$M" --log-level loud "$idle"
row vfio-empty 2 '--vfio' "$M" --vfio "" "$idle"
row vfio-suboption 2 'colour=red' "$M" --vfio 42:00.0,colour=red "$idle"
row control-characters 2 'unknown' "$M" "$(printf -- '--\033]0;evil\007')" "$idle"
row command-later 2 'command' "$M" trace-report

# --- host ---

row host-nothing 2 'host --help' "$M" host
row host-unknown 2 'frobnicate: .*host --help' "$M" host frobnicate
row host-option 2 '--json: .*host --help' "$M" host bind --json 42:00.0
row host-no-device 2 'no device' "$M" host bind
row host-later 2 'host: .*comes first' "$M" -m 64M host list
row host-malformed 4 'nonsense: ' "$M" host check nonsense
row host-missing 4 '00ff:1f:1f[.]7: .*host list' "$M" host bind 00ff:1f:1f.7
row host-missing-card 4 'ff:1f: .*host list' "$M" host list ff:1f
row host-missing-id 4 'dead:beef: .*host list' "$M" host list dead:beef
row host-missing-mdev 4 'deadbeef-' "$M" host check deadbeef-dead-beef-dead-beefdeadbeef
row host-server 4 'unix:' "$M" host bind unix:/nowhere
pci=(/sys/bus/pci/devices/*)
if [ "$(id -u)" -ne 0 ] || ! [ -e "${pci[0]}" ]; then
    skip host-permission "needs root to become somebody else, and a PCI device"
else
    row host-permission 4 'host: .*(denied|Read-only).*root' \
        setpriv --reuid=65534 --regid=65534 --clear-groups "$M" host bind "${pci[0]##*/}"
fi

# prints NAME STATUS COMMAND...: standard output passes through COMMAND, nothing on standard error
prints() {
    local name=$1 want=$2 check=$3 status
    shift 3
    "$M" host "$@" </dev/null >"$T/out" 2>"$T/err"
    status=$?
    if [[ " $want " != *" $status "* ]] || [ -s "$T/err" ] || ! $check <"$T/out" >/dev/null; then
        verdict "FAIL cli/$name: status $status, $(cat "$T/err" "$T/out" | head -c 300 | tr '\n' '|')"
    else
        verdict "PASS cli/$name"
    fi
}
prints host-help 0 'grep -q ^Usage:.minivmm.host' --help
prints host-list 0 'cat' list
prints host-check '0 4' 'grep -qE ^(not.)?ready' check
if command -v python3 >/dev/null; then
    prints host-list-json 0 'python3 -m json.tool' list --json
else
    skip host-list-json "python3 is missing"
fi

# --- ctl ---

row ctl-nothing 2 'ctl --help' "$M" ctl
row ctl-no-command 2 'ctl --help' "$M" ctl "$T/control"
row ctl-two-commands 2 'too many' "$M" ctl "$T/control" status quit
row ctl-no-word 2 'quit;' "$M" ctl "$T/control" 'quit;'
row ctl-missing 4 'control: .*No such file.*--control' "$M" ctl "$T/control" status
row ctl-file 4 'empty: .*refused' "$M" ctl "$T/empty" status
row ctl-long 4 'too long' "$M" ctl "${long:0:200}" status

# --- files that are no kernel ---

row kernel-missing 4 'nowhere: .*No such file' "$M" "$T/nowhere"
row kernel-directory 4 'directory: ' "$M" "$T/directory"
row kernel-dev-zero 4 '/dev/zero: ' "$M" /dev/zero
row kernel-fifo 4 'fifo: ' "$M" "$T/fifo"
if [ "$(id -u)" -eq 0 ]; then
    row kernel-unreadable 4 'Permission denied' \
        setpriv --reuid=65534 --regid=65534 --clear-groups "$M" "$T/unreadable"
else
    row kernel-unreadable 4 'Permission denied' "$M" "$T/unreadable"
fi
row log-file-directory 4 'directory: .*log file' "$M" --log-file "$T/directory" "$idle"
row pidfile-directory 4 'directory: .*pidfile' "$M" --pidfile "$T/directory" "$idle"
row pidfile-kernel 4 'elf-half: .*no pidfile' "$M" --pidfile "$T/elf-half" "$idle"
row pidfile-device 4 '/dev/null: .*no pidfile' "$M" --pidfile /dev/null "$idle"
row pidfile-locked 4 'pid: .*locked' flock "$T/pid" "$M" --pidfile "$T/pid" "$idle"
row initrd-missing 4 'nowhere: .*No such file' "$M" --initrd "$T/nowhere" "$pvh"
row initrd-directory 4 'directory: ' "$M" --initrd "$T/directory" "$pvh"

# --- what KVM is needed for to find out ---

if ! [ -e /dev/kvm ]; then
    no_kvm="no /dev/kvm"
elif ! (: <>/dev/kvm) 2>/dev/null; then
    no_kvm="no permission to use /dev/kvm"
else
    no_kvm=
fi

kvm_row() {
    if [ "$no_kvm" ]; then skip "$1" "$no_kvm"; else row "$@"; fi
}

kvm_row kernel-empty 4 'empty: ' "$M" "$T/empty"
kvm_row elf-header-only 4 'elf-header: ' "$M" "$T/elf-header"
kvm_row elf-truncated 4 'elf-half: ' "$M" "$T/elf-half"
kvm_row elf-other-machine 4 'elf-arm: .*(machine|x86)' "$M" "$T/elf-arm"
kvm_row elf-big-endian 4 'elf-mips: ' "$M" "$T/elf-mips"
kvm_row kernel-gzip 4 'gzip: .*with gzip; .*uncompress' "$M" "$T/gzip"
kvm_row kernel-xz 4 'xz: .*xz' "$M" "$T/xz"
kvm_row kernel-zstd 4 'zstd: .*zstd' "$M" "$T/zstd"
kvm_row kernel-iso 4 'iso: .*ISO' "$M" "$T/iso"
kvm_row kernel-disk 4 'disk: .*disk' "$M" "$T/disk"
kvm_row kernel-qcow2 4 'qcow2: .*disk' "$M" "$T/qcow2"
kvm_row kernel-pe 4 'pe: .*(PE|EFI)' "$M" "$T/pe"
kvm_row bzimage-truncated 4 'bzimage-half: ' "$M" "$T/bzimage-half"
kvm_row bzimage-old 4 'bzimage-old: .*2[.]02' "$M" "$T/bzimage-old"
kvm_row flat-beyond-ram 4 'idle.bin: ' "$M" -m 64M --entry long@0x8000000 "$idle"
kvm_row initrd-too-large 4 'initrd: ' "$M" -m 64M --initrd "$T/initrd" "$pvh"
kvm_row cmdline-too-long 4 'command line' "$M" -m 64M --cmdline "$long" "$pvh"
kvm_row cpus-too-many 4 '99999' "$M" --cpus 99999 "$idle"
kvm_row debug-exit-taken 4 '--debug-exit.*0x3f8' "$M" --debug-exit 0x3f8 "$idle"
kvm_row debug-exit-pci 4 '--debug-exit.*0xcfc' "$M" --debug-exit 0xcfc "$idle"
kvm_row memory-absurd 4 '99999T|[Mm]emory|RAM' "$M" -m 99999T "$idle"
row hugepages-none 4 '--hugepages: .*more are needed; echo [0-9]+ > /sys' "$M" -m 512G --hugepages=2M "$idle"
kvm_row cpus-pin-missing 4 'vcpu1: .*CPU 8191: .*taskset' "$M" --cpus 2,pin=0:8191 "$pvh"
row numa-missing 4 '--numa: .*node 1000: ' "$M" --numa 1000 "$idle"
kvm_row control-file 4 'empty: .*control socket.*in use' "$M" --control "$T/empty" "$idle"
kvm_row control-directory 4 'nowhere/c: .*No such file' "$M" --control "$T/nowhere/c" "$idle"
kvm_row control-long 4 'too long.*107' "$M" --control "${long:0:200}" "$idle"
kvm_row vfio-malformed 4 'nonsense: ' "$M" --vfio nonsense "$idle"
kvm_row vfio-function 4 '42:00[.]9' "$M" --vfio 0000:42:00.9 "$idle"
kvm_row vfio-missing 4 '00ff:1f:1f[.]7' "$M" --vfio 00ff:1f:1f.7 "$idle"
kvm_row vfio-path 4 '/sys/nowhere' "$M" --vfio /sys/nowhere "$idle"

kvm_row share-missing 4 'nowhere: .*no such directory' "$M" --share "$T/nowhere:t" "$idle"
kvm_row share-no-server 4 'nowhere: .*start virtiofsd' "$M" --share "unix:$T/nowhere:t" "$idle"
mkdir "$T/bin"
printf '#!/bin/sh\nexit 1\n' >"$T/bin/passt"
chmod +x "$T/bin/passt"
kvm_row passt-ended 4 'bin/passt: .*it has ended' env PATH="$T/bin:$PATH" "$M" --net passt "$idle"
kvm_row disk-missing 4 'nowhere: .*No such file' "$M" --disk "$T/nowhere" "$idle"
kvm_row disk-directory 4 'directory: .*raw image' "$M" --disk "$T/directory" "$idle"
kvm_row disk-empty 4 'empty: .*truncate' "$M" --disk "$T/empty" "$idle"
kvm_row disk-twice 4 'disk: .*another --disk.*,ro' "$M" -d "$T/disk,ro" -d "$T/disk" "$idle"

# --- limits, permissions ---

kvm_row limit-file-size 4 'File too large.*ulimit -f' bash -c 'ulimit -f 1024; exec "$@"' - "$M" "$idle"
row limit-files 4 'Too many open files' bash -c 'ulimit -n 4; exec "$@"' - "$M" "$idle"
# Whatever it is that cannot be opened any more, one line says so.
silent=
for n in {5..30}; do
    [ -z "$no_kvm" ] || break
    (ulimit -n "$n"; exec "$M" --debug-exit 0xf4 --control "$T/control" -c 2 "$G/hello-real.bin") \
        </dev/null >"$T/out" 2>"$T/err"
    case $?,$(grep -c '^minivmm: .*Too many open files' "$T/err") in
    4,1 | 1,0) ;;
    *) silent="$silent $n" ;;
    esac
done
if [ "$no_kvm" ]; then
    skip limits-files "$no_kvm"
elif [ "$silent" ]; then
    verdict "FAIL cli/limits-files: does not say what is wrong with a limit of$silent"
else
    verdict "PASS cli/limits-files"
fi
if grep -q __asan_init "$M"; then
    skip limit-address-space "the address sanitizer needs all of it"
else
    row limit-address-space 4 '[Mm]emory|RAM' \
        bash -c 'ulimit -v 400000; exec "$@"' - "$M" -m 512M "$idle"
fi

if [ "$(id -u)" -ne 0 ]; then
    skip kvm-permission "needs root to become somebody else"
elif [ "$(stat -c %a /dev/kvm 2>/dev/null)" = 666 ] || ! [ -e /dev/kvm ]; then
    skip kvm-permission "everybody may use /dev/kvm here, or there is none"
else
    row kvm-permission 4 '/dev/kvm: .*Permission denied.*kvm' \
        setpriv --reuid=65534 --regid=65534 --clear-groups "$M" "$idle"
fi
# In a mount namespace of its own /dev is empty, or /dev/kvm is something else.
if ! unshare -m true 2>/dev/null; then
    skip kvm-missing "no permission for a mount namespace"
    skip kvm-foreign "no permission for a mount namespace"
else
    row kvm-missing 4 '/dev/kvm: .*No such file' \
        unshare -m sh -c 'mount -t tmpfs none /dev && exec "$@"' - "$M" "$idle"
    if [ -e /dev/kvm ]; then
        row kvm-foreign 4 '/dev/kvm: ' \
            unshare -m sh -c 'mount --bind /dev/null /dev/kvm && exec "$@"' - "$M" "$idle"
    else
        skip kvm-foreign "$no_kvm"
    fi
fi

# --- help and version ---

# says NAME PATTERN OPTION: status 0, PATTERN on standard output, nothing on standard error.
says() {
    local status
    "$M" "$3" </dev/null >"$T/out" 2>"$T/err"
    status=$?
    if [ $status -ne 0 ] || [ -s "$T/err" ] || ! grep -qE -- "$2" "$T/out"; then
        verdict "FAIL cli/$1: status $status, $(head -n1 "$T/out" "$T/err" | tr '\n' '|')"
    else
        verdict "PASS cli/$1"
    fi
}
says version '^minivmm [0-9]+[.][0-9]+' --version
says version-letter '^minivmm [0-9]+[.][0-9]+' -V
says help-letter '^Usage: minivmm' -h
for option in vfio disk memory hugepages cpus numa initrd cmdline entry cpuid debug-exit no-reboot stop-timeout name \
    pidfile log-file control net share vsock help version; do
    says "help-$option" "--$option" --help
done

# --- name, log file, pidfile ---

# Who is told: the log file, and not standard error; a pidfile is gone after a start that failed.
echo before >"$T/log"
"$M" --name vm-1 --log-file "$T/log" --pidfile "$T/pid" "$T/nowhere" >"$T/out" 2>&1
if [ $? -ne 4 ] || [ -s "$T/out" ] || [ -e "$T/pid" ] || [ "$(head -n1 "$T/log")" != before ] ||
    [ "$(grep -c '^minivmm vm-1: .*nowhere: cannot open kernel' "$T/log")" != 1 ]; then
    verdict "FAIL cli/log-file: $(cat "$T/log" "$T/out" | tr '\n' '|')"
else
    verdict "PASS cli/log-file"
fi

# Where standard output is closed, the pidfile must not get its number, and the guest's words.
: >"$T/pid"
ln "$T/pid" "$T/pid-kept"
if [ "$no_kvm" ]; then
    skip closed-output "$no_kvm"
else
    "$M" --debug-exit 0xf4 --pidfile "$T/pid" "$G/hello-real.bin" </dev/null >&- 2>&-
    if [ $? -ne 1 ] || ! [[ $(<"$T/pid-kept") =~ ^[0-9]+$ ]]; then
        verdict "FAIL cli/closed-output: $(tr '\n' '|' <"$T/pid-kept")"
    else
        verdict "PASS cli/closed-output"
    fi
fi

# --- the terminal, and signals ---

# Runs in a terminal of script's: starts an idle guest, waits until the terminal is raw, lets $2
# happen to it, and tells the status and what has become of the terminal's settings.
cat >"$T/in-terminal" <<'END'
cd "${0%/*}" || exit
stty -a >before
env --default-signal=HUP ./minivmm idle.bin </dev/tty 2>messages &
pid=$!
i=0
while stty -a </dev/tty | grep -q ' icanon' && [ $i -lt 200 ]; do
    sleep 0.05
    i=$((i + 1))
done
[ $i -lt 200 ] || echo "never raw" >raw
[ "$1" = quit ] && echo >ready || kill "-$1" $pid
wait $pid
echo $? >status
stty -a >after
END

# The user's part in the test of Ctrl-A x.
press_quit() {
    local i
    for ((i = 0; i < 200; i++)); do
        if [ -e "$T/ready" ]; then
            printf '\001x'
            return
        fi
        sleep 0.05
    done
}

# terminal NAME SIGNAL STATUS
terminal() {
    local why=
    if [ "$no_kvm" ]; then
        skip "$1" "$no_kvm"
        return
    elif ! command -v script >/dev/null; then
        skip "$1" "script is missing (bsdutils)"
        return
    fi
    rm -f "$T"/{before,after,status,raw,ready}
    { [ "$2" != quit ] || press_quit; } |
        timeout 40 script -qec "sh $T/in-terminal $2" "$T/typescript" >/dev/null 2>&1
    if [ -e "$T/raw" ]; then
        why="the terminal was not raw while the guest ran"
    elif [ "$(cat "$T/status" 2>/dev/null)" != "$3" ]; then
        why="status $(cat "$T/status" 2>/dev/null), not $3"
    elif ! cmp -s "$T/before" "$T/after"; then
        why="the terminal is not as before: $(diff "$T/before" "$T/after" | tr '\n' '|')"
    fi
    if [ "$why" ]; then verdict "FAIL cli/$1: $why"; else verdict "PASS cli/$1"; fi
}
terminal terminal-quit quit 0
terminal terminal-sigterm TERM 143
terminal terminal-sigint INT 130
terminal terminal-sighup HUP 129
terminal terminal-sigsegv SEGV 139
terminal terminal-sigabrt ABRT 134
exit $failed
