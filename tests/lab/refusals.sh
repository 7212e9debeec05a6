# What cannot be done is refused with one line that names the way out, the documented exit code, and no change.
. /lab/support/lab.sh
set -u

# refuses NAME CODE WORD COMMAND...: the exit code, one line on standard error, and WORD in it.
refuses() {
  local name=$1 code=$2 word=$3 status lines
  shift 3
  "$@" >/tmp/stdout 2>/tmp/stderr
  status=$?
  lines=$(wc -l </tmp/stderr)
  if ((status == code)) && ((lines == 1)) && grep -qi -- "$word" /tmp/stderr; then
    pass "$name"
  else
    fail "$name" "exit $status (expected $code), $lines lines: $(tr '\n' '|' </tmp/stderr)"
  fi
}

refuses no-kvm 3 "modprobe" vfprobe record -q -d 1s -o /tmp/no-kvm.vfprobe
check no-kvm-no-file test ! -e /tmp/no-kvm.vfprobe

check pf pf_up 2
check guest guest_vf vm1 192.168.0.101 1 0
affinities vm1 >/tmp/before

refuses no-root-record 3 "root" setpriv --reuid 65534 --regid 65534 --clear-groups \
  vfprobe record -q -d 1s -o /tmp/nobody.vfprobe
refuses no-root-apply 3 "root" setpriv --reuid 65534 --regid 65534 --clear-groups \
  vfprobe apply -q --yes --guest "$(guest_pid vm1)" --cpus 2
refuses no-such-guest-record 2 "vm1" vfprobe record -q -d 1s --guest vm9
refuses no-such-guest-plan 2 "vm1" vfprobe plan --guest vm9 --cpus 2
refuses no-such-guest-tune 2 "vm1" vfprobe tune --guest vm9
refuses no-such-cpu 2 "77" vfprobe plan --guest vm1 --cpus 77
echo 0 >/sys/devices/system/cpu/cpu3/online
refuses offline-cpu 2 "offline" vfprobe apply -q --yes --guest vm1 --cpus 3
echo 1 >/sys/devices/system/cpu/cpu3/online
refuses not-a-session 2 "/etc/passwd" vfprobe show /etc/passwd
refuses no-such-file 2 "nothing.vfprobe" vfprobe show /tmp/nothing.vfprobe
refuses existing-file 2 "exists" vfprobe record -q -d 1s -o /etc/passwd
refuses no-such-command 2 "nonesuch" vfprobe record -q -d 1s -o /tmp/c.vfprobe -- nonesuch
vfprobe record -q -d soon 2>/tmp/stderr
equal not-a-duration 2 $?
check not-a-duration-says-how grep -q "10s" /tmp/stderr

# A guest whose VF is not bound to vfio-pci has no VF, and that can be seen.
check unbound-vf vfprobe topology
vfprobe topology >/tmp/topology
check unbound-vf-is-shown grep -q "$(vf_bdf 1)" /tmp/topology

# A second instance while one holds the lock.
vfprobe tune -q --guest vm1 --cpus 2 --repeat 1 -d 20s -o /tmp/first.vfprobe >/dev/null 2>&1 &
first=$!
locked() { [[ -e /run/vfprobe/lock ]] && ! flock -n /run/vfprobe/lock true; }
check first-holds-the-lock wait_for 30 "the lock" locked
refuses second-instance 3 "vfprobe" vfprobe apply -q --yes --guest vm1 --cpus 1
kill -INT $first
wait $first

# Without BTF classic tracepoints take over; without tracefs what needs them says so.
mkdir -p /tmp/empty
mount --bind /tmp/empty /sys/kernel/btf
ping -q -i 0.05 192.168.0.101 >/dev/null & ping=$!
check no-btf-records vfprobe record -d 2s -o /tmp/no-btf.vfprobe
check no-btf-counts grep -q '"name":"raised"' /tmp/no-btf.vfprobe
umount /sys/kernel/btf
# debugfs would bring it back as its subfolder.
umount /sys/kernel/tracing && umount -l /sys/kernel/debug
check no-tracefs-records vfprobe record -d 2s -o /tmp/no-tracefs.vfprobe
check no-tracefs-says-so grep -q "tracefs is not mounted" /tmp/no-tracefs.vfprobe
kill $ping
mount -t debugfs debugfs /sys/kernel/debug && mount -t tracefs tracefs /sys/kernel/tracing

affinities vm1 >/tmp/after
check nothing-changed diff /tmp/before /tmp/after

# An interrupt that the kernel places itself: the queue of a disk that serves the guarded CPU. Linux 6.1 refuses with EIO, 6.12
# with EPERM, and offers the mask for reading only, so that the plan can tell.
vf_only=(--guest vm1 --cpus 2 --placement own --no-look)
check managed-disk modprobe nvme
check managed-queues wait_for 30 "the disk" test -e /dev/nvme0n1
nvme_irq() { awk -v queue="$1" '$NF == queue { sub(":", "", $1); print $1 }' /proc/interrupts; }
queue=$(nvme_irq nvme0q3) admin=$(nvme_irq nvme0q0)
mask() { cat "/proc/irq/$1/smp_affinity_list"; }
told() { grep "irq $queue nvme0q3" "$1" | grep -q "isolcpus=managed_irq,domain,$2"; }
equal managed-queue-on-the-guarded-cpu 2 "$(mask "$queue")"
equal managed-is-refused-by-the-kernel 1 "$(bash -c "echo 1 >/proc/irq/$queue/smp_affinity_list" 2>/tmp/stderr; echo $?)"
case $KERNEL in 6.1) because="Input/output error" ;; *) because="Operation not permitted" ;; esac
check managed-as-documented grep -q "$because" /tmp/stderr
affinities vm1 >/tmp/before
vfprobe plan "${vf_only[@]}" >/tmp/plan
if [[ $KERNEL == 6.1 ]]; then
  check managed-is-not-known-before grep -q "irq $queue nvme0q3 .*may fire on a guarded CPU$" /tmp/plan
else
  check managed-is-known-before told /tmp/plan 2
fi
vfprobe apply "${vf_only[@]}" --yes >/tmp/applied 2>&1
equal managed-is-no-hindrance 0 $?
grep "^  left: " /tmp/applied
check managed-is-left told /tmp/applied LIST
equal managed-stays 2 "$(mask "$queue")"
equal others-of-the-disk-move 0-1,3 "$(mask "$admin")"
equal pinned-all-the-same 2 "$(sed -n 's/^Cpus_allowed_list:\t//p' "/proc/$(vcpu_tid vm1 0)/status")"
check managed-is-no-drift vfprobe verify
vfprobe status >/tmp/status
check managed-is-the-kernels grep -q "irq $queue nvme0q3 .*the kernel .*left at 2" /tmp/status
vfprobe plan "${vf_only[@]}" >/tmp/plan
check managed-is-not-tried-again grep -q "irq $queue nvme0q3 cannot be moved: .*isolcpus=managed_irq,domain,2" /tmp/plan
equal nothing-else-to-plan "nothing to change" "$(tail -n 1 /tmp/plan)"
# What it does there is seen, and its remedy is told.
while taskset -c 2 dd if=/dev/nvme0n1 of=/dev/null bs=4k count=200 iflag=direct; do :; done >/tmp/reading.log 2>&1 &
reader=$!
vfprobe isolation -q --cpus 2 -d 2s >/tmp/isolation
kill $reader
wait $reader
check managed-noise-has-a-remedy grep -q "nvme0q3.*isolcpus=managed_irq" /tmp/isolation
check managed-undone vfprobe rollback
affinities vm1 >/tmp/after
check managed-nothing-changed compare_settings /tmp/before /tmp/after
