# Task of `cargo xtask demo`: the experiment from end to end, on real kernel events. One VF of two belongs to a nested
# guest; under CPU load vfprobe measures how its interrupts arrive, tries its own placement against the host's, says
# whether that helped, and puts everything back. `STEP` lines become the progress on the developer's terminal.
. /lab/support/lab.sh
set -u
GUEST_IP=192.168.0.101
step() { echo "STEP $*"; }
stop() { echo "demo: $*" >&2; exit 1; }

step "bringing up the PF with 2 VFs, and guest vm1 with the first"
pf_up 2 || stop "the PF does not come up"
guest_vf vm1 $GUEST_IP 1 0 || stop "vm1 does not come up"
wait_for 20 "an answer of vm1" ping -q -c 1 -W 1 $GUEST_IP || stop "vm1 does not answer"

step "loading every CPU of the host"
load_up || stop "no load"

step "looking at the host: vfprobe topology"
vfprobe topology --guest vm1 | tee /out/topology.txt
((PIPESTATUS[0] == 0)) || stop "topology failed"
affinities vm1 >/out/settings-before.txt

step "measuring the host's placement against its own, in turns: vfprobe tune (about a minute)"
vfprobe tune --guest vm1 --try own --isolate --repeat 3 -d 5s -o /out/session.vfprobe --html /out/report.html \
  -- ping -q -i 0.01 $GUEST_IP | tee /out/verdict.txt
status=${PIPESTATUS[0]}
# 1 is a finding, such as `worse`: a result, and for the demo's reader to see.
((status <= 1)) || stop "tune failed with exit status $status"

load_down
step "comparing the settings of the guest and of all interrupts with those from before"
affinities vm1 >/out/settings-after.txt
compare_settings /out/settings-before.txt /out/settings-after.txt | tee /out/rollback.txt
((PIPESTATUS[0] == 0)) || stop "not everything is as it was"

step "switching the guest and the host off"
guest_down vm1
