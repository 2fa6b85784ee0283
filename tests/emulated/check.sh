#!/usr/bin/env bash
# check.sh: the command line of vfio-emu and the life of its socket; a verdict line for each test.
# EMU is the program, build/vfio-emu where it is not set.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit

EMU=${EMU:-build/vfio-emu}
T=$(mktemp -d)
S=$T/socket
failed=0
pid=
trap 'kill $pid 2>/dev/null; rm -rf "$T"' EXIT

verdict() { # NAME CONDITION...: passes when the condition holds
    if "${@:2}"; then
        echo "PASS vfio-emu/$1"
    else
        echo "FAIL vfio-emu/$1: $(tr '\n' '|' <"$T/err")"
        failed=1
    fi
}

refuses() { # STATUS PATTERN ARGUMENT...: so it ends, with one line that says why
    timeout 10 "$EMU" "${@:3}" >"$T/out" 2>"$T/err" </dev/null
    [ $? -eq "$1" ] && [ "$(wc -l <"$T/err")" -eq 1 ] && grep -qE -- "^vfio-emu: .*$2" "$T/err"
}

serve() { # ARGUMENT...: starts it, waits until it listens
    : >"$T/out" # what the one before said, which the new one empties later than we look
    "$EMU" --socket "$S" "$@" >"$T/out" 2>"$T/err" </dev/null &
    pid=$!
    for ((i = 0; i < 200; i++)); do
        grep -q "on $S\$" "$T/out" && return
        kill -0 $pid 2>/dev/null || return
        sleep 0.05
    done
}

ends() { # SIGNAL: with status 0, and the socket is gone
    kill "-$1" $pid && wait $pid && ! [ -e "$S" ]
}

verdict no-arguments refuses 2 'socket'
verdict no-device refuses 2 'device' --socket "$S"
verdict no-socket refuses 2 'socket' platform
verdict no-path refuses 2 '--socket' platform --socket
verdict unknown-argument refuses 2 '--twice' --socket "$S" --twice platform
verdict two-devices refuses 2 'gpu' --socket "$S" platform gpu
verdict unknown-device refuses 2 'nothing.*--list' --socket "$S" nothing
for option in colour=red fds fds= fds=0 fds=129 fds=-1 fds=1x xfer=7 vram=3M vram=512G \
    vram=99999999999G mmap=maybe fault=die fault=die@0 fault=@1 fault=dye@1; do
    verdict "option-$option" refuses 2 "'$option'" --socket "$S" "gpu,$option"
done
verdict path-too-long refuses 4 'too long' --socket "$T/$(printf '%0120d' 0)" platform
verdict path-missing refuses 4 'No such file' --socket "$T/nowhere/socket" platform
touch "$S"
verdict path-is-a-file refuses 4 'in use' --socket "$S" platform
verdict path-is-still-a-file test -f "$S"
rm "$S"
verdict list grep -q '^gpu ' <("$EMU" --list)

serve platform --once
verdict listens test -S "$S"
verdict mode test "$(stat -c %a "$S")" = 600
verdict live-server-kept refuses 4 'in use' --socket "$S" platform
verdict live-server-still-there test -S "$S"
verdict sigterm ends TERM
serve gpu,vram=256G,fault=die@1
kill -KILL $pid
wait $pid 2>/dev/null
verdict killed-leaves-socket test -S "$S"
serve platform
verdict stale-socket-replaced kill -0 $pid
verdict sigterm-again ends TERM
exit $failed
