# The lab's own promises: VF and tap guests of every kind come up and answer, the tools are there, files come out; and
# vfprobe finds the path of each of these guests.
# lab: limit=400
. /lab/support/lab.sh

for mount in /sys/kernel/tracing /sys/kernel/debug /sys/fs/bpf /sys/fs/cgroup /lab /images /share /out; do
  mountpoint -q $mount && continue
  missing+=" $mount"
done
equal mounts "" "$missing"
missing=
for tool in bpftrace ethtool iperf3 ip irqbalance lspci perf ping ps python3 qemu-system-x86_64 sockperf socat strace \
  stress-ng taskset trace-cmd; do
  type -P $tool >/dev/null || missing+=" $tool"
done
equal tools "" "$missing"
equal script-has-no-terminal "not a tty" "$(tty)"

check pf pf_up 2
guest_vf_start vf1 192.168.0.101 1 0
guest_vf_start vf2 192.168.0.102 2 1
check bridge bridge_up
ip=150
declare -A address=([vf1]=192.168.0.101 [vf2]=192.168.0.102)
for kind in virtio vhost e1000; do
  address[$kind]=192.168.0.$((ip++))
  check start-$kind guest_tap_start $kind "${address[$kind]}" 1 $kind
done
for guest in vf1 vf2 virtio vhost e1000; do
  check up-$guest guest_wait $guest
  # Until the first answer: the neighbour's address is still unknown then.
  check ping-$guest wait_for 20 "an answer of $guest" ping -q -c 1 -W 1 "${address[$guest]}"
done
# What vfprobe finds from outside is what was started above: the way of each guest's packets, and the tap's index.
paths='
import json
for guest in json.load(open("/out/topology.json"))["guests"]:
    for n in guest["nics"]:
        print(n["netdev"], n["ifindex"], n["path"], n["card"], n["queues"], n["bridge"], *n["uplinks"], end="; ")
    print(guest["name"], len(guest["vfs"]), "VF", end="; ")'
/share/vfprobe topology --json >/out/topology.json
index() { cat "/sys/class/net/$1/ifindex"; }
equal paths-of-guests "tap-e1000 $(index tap-e1000) emulated e1000 1 br0 eth0; e1000 0 VF; vf1 1 VF; vf2 1 VF; \
tap-vhost $(index tap-vhost) vhost virtio-net-pci 1 br0 eth0; vhost 0 VF; \
tap-virtio $(index tap-virtio) virtio virtio-net-pci 1 br0 eth0; virtio 0 VF; " "$(python3 -c "$paths")"
/share/vfprobe topology --color never | grep NIC
equal vcpus-of-vf2 "CPU 1/KVM" "$(cat /proc/"$(guest_pid vf2)"/task/"$(vcpu_tid vf2 1)"/comm)"
check iperf3 iperf3 -c "${address[vf1]}" -t 1
[[ $(affinities vf1 | wc -l) -gt 10 ]] && pass affinities || fail affinities "$(affinities vf1)"
check load load_up
load_down
for guest in vf1 vf2 virtio vhost e1000; do check down-$guest guest_down $guest; done
echo collected >/out/file
equal writable-share collected "$(cat /out/file)"
