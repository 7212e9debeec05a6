# Task of `cargo xtask demo --paths`: the same traffic to four guests, one for each kind of path, and what each path costs:
# hops of the host, throughput, round trip, CPU time of the host. `STEP` lines become the progress on the developer's terminal.
. /lab/support/lab.sh
set -u
declare -A address=([vm1]=192.168.0.101 [vm2]=192.168.0.102 [vm3]=192.168.0.103 [vm4]=192.168.0.104)
# From the longest path to the shortest.
GUESTS="vm4 vm2 vm3 vm1"
PINGS=240
step() { echo "STEP $*"; }
stop() { echo "demo: $*" >&2; exit 1; }

step "bringing up a VF for vm1, a bridge with taps for vm2 (virtio-net), vm3 (vhost-net) and vm4 (e1000)"
pf_up 1 || stop "the PF does not come up"
guest_vf_start vm1 ${address[vm1]} 1 0
bridge_up || stop "the bridge does not come up"
guest_tap_start vm2 ${address[vm2]} 1 virtio && guest_tap_start vm3 ${address[vm3]} 1 vhost &&
  guest_tap_start vm4 ${address[vm4]} 1 e1000 || stop "the guests cannot be started"
for guest in $GUESTS; do
  guest_wait $guest || stop "$guest does not come up"
  wait_for 20 "an answer of $guest" ping -q -c 1 -W 1 ${address[$guest]} || stop "$guest does not answer"
done

# measured GUEST NAME: vfprobe's view of one guest for ten seconds.
measured() { vfprobe path -q --guest "$1" --every -d 10s --json >"/out/$1-$2.json" || stop "vfprobe path failed"; }

for guest in $GUESTS; do
  step "measuring $guest: idle, $PINGS round trips, throughput"
  measured $guest idle
  # The round trips begin before the window and end after it; those within are counted by their time.
  ping -D -i 0.06 -c $PINGS ${address[$guest]} >/out/$guest-ping.txt & pinging=$!
  measured $guest ping
  wait $pinging || stop "$guest does not answer"
  iperf3 -J -c ${address[$guest]} -t 4 >/out/$guest-iperf3.json || stop "no throughput of $guest"
done

step "watching all four at once: vfprobe path"
for guest in $GUESTS; do ping -q -i 0.05 ${address[$guest]} >/dev/null & pings[${guest#vm}]=$!; done
vfprobe path --color never -d 5s >/out/path.txt || stop "vfprobe path failed"
kill "${pings[@]}"

step "the four paths side by side"
python3 /lab/support/paths-table.py /out $GUESTS | tee /out/paths.txt
((PIPESTATUS[0] == 0)) || stop "no table"

step "switching the guests and the host off"
for guest in $GUESTS; do guest_down $guest; done
