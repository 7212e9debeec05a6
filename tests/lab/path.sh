# Packet paths of every kind side by side: a guest with a VF, one on virtio-net, one on vhost-net, one on an emulated e1000.
# What vfprobe counts, with the interfaces' own counters and a tracefs capture of the same time beside it.
# lab: limit=500
. /lab/support/lab.sh
set -u
declare -A address=([vm1]=192.168.0.101 [vm2]=192.168.0.102 [vm3]=192.168.0.103 [vm4]=192.168.0.104)
GUESTS="vm1 vm2 vm3 vm4"

pf_up 1 || exit 1
guest_vf_start vm1 ${address[vm1]} 1 0
bridge_up || exit 1
guest_tap_start vm2 ${address[vm2]} 1 virtio && guest_tap_start vm3 ${address[vm3]} 1 vhost &&
  guest_tap_start vm4 ${address[vm4]} 1 e1000 || exit 1
for guest in $GUESTS; do
  guest_wait $guest || exit 1
  # Until the first answer: the neighbour's address is still unknown then.
  check path/ping-$guest wait_for 20 "an answer of $guest" ping -q -c 1 -W 1 ${address[$guest]}
done

# recorded FILE SECONDS: a recording in the background that counts by now.
recorded() {
  rm -f "$1"
  /share/vfprobe record -q -d "$2s" -o "$1" >/tmp/record.log 2>&1 &
  RECORD=$!
  wait_for 20 "the window of the recording" grep -q '"kind":"run"' "$1"
}
# counters: packets and drops of each tap as the interfaces count them.
counters() {
  local tap s
  for tap in tap-vm2 tap-vm3 tap-vm4; do
    s=/sys/class/net/$tap/statistics
    echo "$tap $(<$s/rx_packets) $(<$s/tx_packets) $(<$s/tx_dropped)"
  done
}

# capture_start, capture_end FILE: the kernel's own record of what packets passed.
TRACE=/sys/kernel/tracing/instances/oracle
capture_start() {
  local event
  mkdir $TRACE && echo mono >$TRACE/trace_clock && echo 30000 >$TRACE/buffer_size_kb
  for event in net/netif_receive_skb net/net_dev_queue net/net_dev_start_xmit net/net_dev_xmit skb/consume_skb skb/kfree_skb; do
    echo 1 >$TRACE/events/$event/enable
  done
}
capture_end() {
  echo 0 >$TRACE/tracing_on
  { cat $TRACE/trace; cat $TRACE/per_cpu/cpu*/stats | sed -n 's/^\(overrun\|dropped events\): \([1-9][0-9]*\)/CPU [LOST \2 EVENTS]/p'; } >"$1"
  rmdir $TRACE
}

# --- counts and times ----------------------------------------------------------------------------------------------
capture_start
counters >/out/before
recorded /out/path.vfprobe 11 || exit 1
for guest in $GUESTS; do
  ping -q -i 0.05 -c 120 ${address[$guest]} >/out/ping-$guest & pings[${guest#vm}]=$!
done
wait "${pings[@]}"
counters >/out/after
check path/record wait $RECORD
capture_end /out/path.trace

# --- throughput ----------------------------------------------------------------------------------------------------
# More packets than are followed; all are counted.
# At full rate the emulated e1000 can hang its guest: QEMU's card, not the path, is then what is measured.
declare -A rate=([vm4]="-b 2M")
for guest in $GUESTS; do
  echo "timeout 60 iperf3 -J -t 2 ${rate[$guest]:-} -c ${address[$guest]} >/out/iperf3-$guest.json || exit 1"
done >/tmp/throughput
counters >/out/throughput-before
check path/record-throughput /share/vfprobe record -q -o /out/throughput.vfprobe -- bash /tmp/throughput
counters >/out/throughput-after

# --- drops ---------------------------------------------------------------------------------------------------------
capture_start
# A VMM that does not read: its tap's ring fills.
ip link set tap-vm2 txqueuelen 10
kill -STOP "$(guest_pid vm2)"
# A wrong address: no port has it, and none is to be flooded.
for port in eth0 tap-vm2 tap-vm3 tap-vm4; do ip link set $port type bridge_slave flood off; done
ip neigh replace 192.168.0.199 lladdr 52:54:00:bb:00:99 dev br0
# A program of XDP that drops what the guest sends.
python3 /lab/support/xdp-drop.py tap-vm4 >/tmp/xdp & XDP=$!
wait_for 10 "the program of XDP" grep -q attached /tmp/xdp || exit 1
counters >/out/drops-before
recorded /out/drops.vfprobe 5 || exit 1
ping -q -i 0.02 -c 30 -W 1 ${address[vm2]} >/dev/null & drops[0]=$!
ping -q -i 0.02 -c 20 -W 1 192.168.0.199 >/dev/null & drops[1]=$!
ping -q -i 0.02 -c 25 -W 1 ${address[vm4]} >/dev/null & drops[2]=$!
wait "${drops[@]}"
counters >/out/drops-after
check path/record-drops wait $RECORD
capture_end /out/drops.trace
kill $XDP
for port in eth0 tap-vm2 tap-vm3 tap-vm4; do ip link set $port type bridge_slave flood on; done
kill -CONT "$(guest_pid vm2)"

# --- the command ---------------------------------------------------------------------------------------------------
wait_for 30 "an answer of vm2" ping -q -c 1 -W 1 ${address[vm2]}
/share/vfprobe path -q -d 8s --json >/out/path.json & path=$!
follows() { grep -qs netif_receive_skb /proc/$path/fdinfo/*; }
wait_for 20 "the programs of vfprobe path" follows
for guest in $GUESTS; do ping -q -i 0.05 ${address[$guest]} >/dev/null & pings[${guest#vm}]=$!; done
iperf3 -c ${address[vm3]} -t 2 >/out/iperf3.txt
check path/json wait $path
check path/text eval '/share/vfprobe path --color never -d 3s >/out/path.txt'
kill "${pings[@]}"
cat /out/path.txt
for line in "vm1  vf path: guest - $(vf_bdf 0) of eth0" "vm2  virtio path: guest - tap-vm2 - br0 - eth0" \
  "vm3  vhost path: guest - tap-vm3 - br0 - eth0" "vm4  emulated path: guest - tap-vm4 - br0 - eth0"; do
  check "path/shown-${line%% *}" grep -qxF "$line" /out/path.txt
done
equal path/vf-packets-of-igb "not reported" "$(sed -n 's/^  to guest: packets \(not reported\),.*/\1/p' /out/path.txt)"
