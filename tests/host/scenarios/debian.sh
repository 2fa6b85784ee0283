raw=/disk/debian/debian.raw
ls -la / /disk /disk/debian; df; free
check "hand over the card" to_vfio $CARD $SOUND
tick; t0=$now
vm_start boot --memory 512M --cpus 1 --vfio 42:00 --disk $raw --initrd /disk/debian/initrd.img --cmdline "root=/dev/vda1 ro console=ttyS0" /disk/debian/vmlinuz
check "a login" vm_wait "login:" 200
tick; note "login after $((now-t0)) s"
vm_runs || exit
vm_type root
check "a shell" vm_wait "root@debian:" 100
tick; note "shell after $((now-t0)) s"
vm_type "systemd-analyze; systemd-analyze blame | head -20; dmesg | tail -50; systemctl --failed; ip a; lsmod; df"
vm_type "echo DO''NE"
check "done" vm_wait "DONE" 100
vm_type poweroff
vm_end 200
equal "status" 0 $status
tick; note "off after $((now-t0)) s"
check "fsck" e2fsck -fn "$raw?offset=1048576"
passt --help 2>&1 | head -3
virtiofsd --help | head -3
ssh -V
