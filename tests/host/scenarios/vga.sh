# A VGA card with its legacy memory and ports (vga): each access goes through the kernel, which
# opens the way to the card in the bridges above and closes the others'. Without the option RAM is
# there, and no port: the guest must notice.
vga=$(device 1013 00b8)
check "hand over" to_vfio "$vga" $CARD $SOUND
guest() { # NAME STATUS --vfio DEVICE...
    local name=$1 want=$2
    shift 2
    vm_start "$name" "$@" --debug-exit 0xf4 /guests/vga.elf
    vm_end 60
    equal "$name: status" "$want" "$status"
    [ "$status" = "$want" ] || grep -a FAIL "$vm_out"
}
guest "text memory and ports" 1 --vfio "$vga",vga
guest "not asked for" 3 --vfio "$vga"
guest "a card without them" 4 --vfio $CARD,vga
check "a card without them: message" grep -q "$CARD: cannot give the guest the card's VGA ranges" "$vm_err"
release "$vga" $CARD $SOUND
