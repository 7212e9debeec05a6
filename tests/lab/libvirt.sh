# A guest that the real libvirtd starts from its XML: a VF as hostdev, vcpupin and emulatorpin of its own. vfprobe says whose
# it is, keeps within libvirt's pins or refuses, tells when libvirt has set something else, and leaves all as it was, also
# beside a real irqbalance. What libvirt has set is asked of virsh; vfprobe has it from /proc and control groups alone, until
# the last part, where libvirt keeps no cpusets.
# lab: limit=500
. /lab/support/lab.sh

export LIBVIRT_DEFAULT_URI=qemu:///system
mkdir -p /etc/libvirt
# No user of its own, no labels and no private /dev: none of them has to do with CPUs, and each takes emulated time.
cat >/etc/libvirt/qemu.conf <<'CONF'
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = []
stdio_handler = "file"
CONF
answers() { virsh list; }
ended() { ! virsh domstate vm1 | grep -q running; }
# exits NAME CODE COMMAND...: its output is in /tmp/said.
exits() {
  local name=$1 code=$2 status
  shift 2
  "$@" >/tmp/said 2>&1
  status=$?
  if ((status == code)); then pass "$name"; else fail "$name" "exit $status, expected $code: $(tr '\n' '|' </tmp/said)"; fi
}
says() { check "$1" grep -q "$2" /tmp/said; }
vf_irqs() { awk -v vf="($(vf_bdf 0))" 'index($0, "vfio-msi") && index($0, vf) { sub(":", "", $1); print $1 }' /proc/interrupts; }
# pins: what libvirt says of its pins, in one line.
pins() { { virsh vcpupin vm1 && virsh emulatorpin vm1; } | awk '/^ / && $NF ~ /^[0-9]/ { printf "%s ", $NF }'; }
before() { affinities vm1 | sort >/out/before; }
unchanged() { affinities vm1 | sort >/out/after && compare_settings /out/before /out/after; }

check pf pf_up 1
libvirtd --daemon || fail libvirtd "it does not start"
check libvirtd-answers wait_for 60 "libvirtd" answers
IFS=:. read -r domain bus slot function <<<"$(vf_bdf 0)"
cat >/tmp/vm1.xml <<XML
<domain type='kvm'>
  <name>vm1</name>
  <uuid>5a7ec4f6-6f0c-4f0b-9a53-0d4b1d3c9a01</uuid>
  <memory unit='MiB'>384</memory>
  <vcpu placement='static'>2</vcpu>
  <cputune>
    <vcpupin vcpu='0' cpuset='2'/>
    <vcpupin vcpu='1' cpuset='3'/>
    <emulatorpin cpuset='0-3'/>
  </cputune>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>/images/kernel-$KERNEL/vmlinuz</kernel>
    <initrd>/run-files/guest.cpio</initrd>
    <cmdline>console=ttyS0 quiet panic=-1 guestip=192.168.0.101</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <cpu mode='host-passthrough' check='none'/>
  <on_reboot>destroy</on_reboot>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <serial type='file'><source path='/tmp/vm1.log'/></serial>
    <hostdev mode='subsystem' type='pci' managed='no'>
      <source><address domain='0x$domain' bus='0x$bus' slot='0x$slot' function='0x$function'/></source>
    </hostdev>
  </devices>
</domain>
XML
check defined virsh define /tmp/vm1.xml
if ! virsh start vm1 >/tmp/vm1.qemu 2>&1; then
  cp /var/log/libvirt/qemu/vm1.log /out/libvirt-vm1.log
  fail started "$(tr '\n' '|' </tmp/vm1.qemu)"
  exit
fi
cp /run/libvirt/qemu/vm1.pid /tmp/vm1.pid
check vm1 guest_wait vm1
equal libvirt-has-pinned "2 3 0-3 " "$(pins)"
check has-interrupts wait_for 60 "its interrupts" eval '[[ -n $(vf_irqs) ]]'

# --- whose it is ---------------------------------------------------------------------------------------------------
vfprobe topology >/out/topology
check named-libvirts grep -q "^vm1 .*, libvirt" /out/topology
before

# --- what libvirt does not allow is refused, with whose limit it is and where it is changed ------------------------
exits other-cpus-are-refused 2 vfprobe plan --guest vm1 --cpus 1-2 --placement own
says refused-with-the-limit "vCPU 0 of guest \"vm1\" may only use CPUs 2"
says refused-with-the-way-out "libvirt set that.*virsh vcpupin"
check nothing-was-changed unchanged

# --- within libvirt's pins: they are kept, interrupts follow them, the emulator leaves the guarded CPUs -------------
exits planned-on-the-same-cpus 0 vfprobe plan --guest vm1 --cpus 2-3 --placement own
equal no-vcpu-is-moved 0 "$(grep -c "vm1 vCPU" /tmp/said)"
exits planned-with-auto 0 vfprobe plan --guest vm1 --cpus auto --placement own
says auto-takes-libvirts-pins "guarded CPUs 2-3"
check applied vfprobe apply --guest vm1 --cpus 2-3 --placement own --yes
equal interrupts-go-to-the-vcpus "" "$(for irq in $(vf_irqs); do grep -L '^[23]$' /proc/irq/$irq/smp_affinity_list; done)"
check in-force vfprobe verify
equal pins-are-libvirts "2 3 0-3 " "$(pins)"
exits status 0 vfprobe status
says owner-is-shown "irq .* vfprobe  *no$"

# --- libvirt sets something else: that is told to be libvirt's ----------------------------------------------------
check libvirt-moves-the-emulator virsh emulatorpin vm1 0 --live
exits drift 1 vfprobe status
says drift-is-libvirts "vm1 thread .* libvirt  *DRIFT: 0, set by libvirt"
vfprobe status --json >/out/status.json
check drift-is-libvirts-in-json grep -q '"owner": "libvirt"' /out/status.json
check libvirt-moves-it-back virsh emulatorpin vm1 0-3 --live
check undone vfprobe rollback
check as-found unchanged
equal pins-as-found "2 3 0-3 " "$(pins)"

# --- a real irqbalance beside it: both are respected, and both are left as found ------------------------------------
mkdir -p /run/irqbalance
irqbalance --foreground --debug --interval=1 >/tmp/irqbalance.log 2>&1 &
BALANCER=$!
SOCKET=/run/irqbalance/irqbalance$BALANCER.sock
check irqbalance-runs wait_for 30 "its socket" test -S $SOCKET
tell() { echo -n "$*" | socat -t 5 - UNIX-CONNECT:$SOCKET; }
# bans: interrupts that irqbalance says it leaves alone.
bans() { tell setup | grep -o 'IRQ [0-9]*' | cut -d' ' -f2 | sort -n | tr '\n' ' '; }
scans() { grep -c '^----' /tmp/irqbalance.log; }
scanned() { (($(scans) > $1)); }
threads() { affinities vm1 | grep ^thread | sort; }
tell "settings ban irqs 1 9"
equal somebody-has-banned "1 9 " "$(bans)"
threads >/out/threads-before
exits planned-beside-both 0 vfprobe plan --guest vm1 --cpus 2-3 --placement own
says irqbalance-is-in-the-plan "ban list of irqbalance (pid $BALANCER)  *1 9 -> 1 "
equal no-vcpu-is-moved-beside-both 0 "$(grep -c "vm1 vCPU" /tmp/said)"
exits libvirts-limit-counts-beside-both 2 vfprobe plan --guest vm1 --cpus 1-2 --placement own
check applied-beside-both vfprobe apply --guest vm1 --cpus 2-3 --placement own --yes
equal ban-list-is-extended "" "$(list=" $(bans)"; for irq in 1 9 $(vf_irqs); do [[ $list == *" $irq "* ]] || echo $irq; done)"
check irqbalance-goes-on wait_for 60 "three scans" scanned $(($(scans) + 3))
check in-force-beside-both vfprobe verify
equal pins-are-libvirts-beside-both "2 3 0-3 " "$(pins)"
check undone-beside-both vfprobe rollback
equal ban-list-as-found "1 9 " "$(bans)"
equal pins-as-found-beside-both "2 3 0-3 " "$(pins)"
threads >/out/threads-after
check threads-as-found compare_settings /out/threads-before /out/threads-after
kill $BALANCER && wait $BALANCER 2>/dev/null

touch /tmp/vm1.ending
check vm1-ends virsh destroy vm1
check gone wait_for 30 "the end of vm1" ended
check vf-is-free test -e /sys/bus/pci/drivers/vfio-pci/$(vf_bdf 0)

# --- a libvirt that keeps no cpusets: it sets masks of threads, and its pins are asked of virsh -------------------------
kill "$(pidof libvirtd)"
no_answer() { [[ -z $(pidof libvirtd) ]]; }
check libvirtd-ends wait_for 30 "the end of libvirtd" no_answer
# Where no control groups are mounted it makes none.
unshare --mount sh -c 'umount -l /sys/fs/cgroup && exec libvirtd --daemon' || fail libvirtd-again "it does not start"
check libvirtd-answers-again wait_for 60 "libvirtd" answers
# Nothing but its firmware runs.
cat >/tmp/vm2.xml <<'XML'
<domain type='kvm'>
  <name>vm2</name>
  <uuid>5a7ec4f6-6f0c-4f0b-9a53-0d4b1d3c9a02</uuid>
  <memory unit='MiB'>64</memory>
  <vcpu placement='static'>2</vcpu>
  <cputune>
    <vcpupin vcpu='0' cpuset='2'/>
    <vcpupin vcpu='1' cpuset='3'/>
    <emulatorpin cpuset='0-1'/>
  </cputune>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <features><acpi/><apic/></features>
  <cpu mode='host-passthrough' check='none'/>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
</domain>
XML
check vm2-starts virsh create /tmp/vm2.xml
cp /run/libvirt/qemu/vm2.pid /tmp/vm2.pid
pins2() { { virsh vcpupin vm2 && virsh emulatorpin vm2; } | awk '/^ / && $NF ~ /^[0-9]/ { printf "%s ", $NF }'; }
equal vm2-is-pinned "2 3 0-1 " "$(pins2)"
equal no-group-tells-it "" "$(grep '/vcpu0$' /proc/$(vcpu_tid vm2 0)/cpuset)"
affinities vm2 | sort >/out/vm2-before
VFPROBE=$(command -v vfprobe)
exits pins-without-groups-are-refused 2 vfprobe plan --guest vm2 --cpus 1,3 --placement keep
says refused-by-the-pin "vCPU 0 of guest \"vm2\" may only use CPUs 2, not 1: libvirt's vcpupin says so"
exits within-the-pins 0 vfprobe plan --guest vm2 --cpus 2-3 --placement keep
exits auto-keeps-the-pins 0 vfprobe plan --guest vm2 --cpus auto --placement keep
says auto-takes-the-pins "guarded CPUs 2-3"
# libvirt allows another one, and that is seen.
check libvirt-moves-the-vcpu virsh vcpupin vm2 0 1 --live
exits the-new-pin-is-seen 0 vfprobe plan --guest vm2 --cpus 1,3 --placement keep
exits the-old-one-is-refused 2 vfprobe plan --guest vm2 --cpus 2-3 --placement keep
check libvirt-moves-it-back-again virsh vcpupin vm2 0 2 --live
# Without virsh nobody knows; that is said.
exits planned-without-virsh 0 env PATH=/nowhere "$VFPROBE" plan --guest vm2 --cpus 1,3 --placement keep
says unseen-pins-are-told "note: pins that libvirt has set for vm2 are not seen (virsh is not installed)"
equal vm2-pins-as-found "2 3 0-1 " "$(pins2)"
affinities vm2 | sort >/out/vm2-after
check vm2-as-found compare_settings /out/vm2-before /out/vm2-after
touch /tmp/vm2.ending
check vm2-ends virsh destroy vm2
