# Sourced inside the lab's emulated host: the PF and its VFs, nested guests of several kinds, CPU load, and the lines
# that report a test. Waits are for conditions, with deadlines; every function says on failure what it waited for.

PF=eth0
HOST_IP=192.168.0.110

# wait_for SECONDS WHAT COMMAND...: runs COMMAND until it succeeds.
wait_for() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || { echo "lab: waited in vain for $what" >&2; return 1; }
    sleep 0.1
  done
}

# trouble TEXT: the emulation broke down, not what is tested; xtask reads it when the host is off.
trouble() { echo "$*" >>/out/trouble; }

# What the guests and the kernel said last, for whoever asks later why something went wrong.
keep_logs() {
  mkdir -p /out/logs && cp /tmp/*.log /tmp/*.qemu /out/logs/ 2>/dev/null
  dmesg >/out/logs/dmesg
}
trap keep_logs EXIT

# --- results -------------------------------------------------------------------------------------------------------
# Lines that xtask reads: `TEST <name> ok` and `TEST <name> FAILED <detail>`. A name has no spaces.
pass() { echo "TEST $1 ok"; }
fail() { echo "TEST $1 FAILED ${*:2}"; }
# skip NAME WHY...: this host cannot run it; xtask counts and shows it.
skip() { echo "TEST $1 skipped ${*:2}"; }
# check NAME COMMAND...: a test that is one command, run in this shell; its output is the detail.
check() {
  local name=$1
  shift
  if "$@" >/tmp/check.log 2>&1; then pass "$name"; else fail "$name" "$(tr '\n' '|' </tmp/check.log)"; fi
}
# equal NAME EXPECTED ACTUAL
equal() { if [[ $2 == "$3" ]]; then pass "$1"; else fail "$1" "expected '$2', got '$3'"; fi; }

# --- the SR-IOV card -----------------------------------------------------------------------------------------------
# pf_up NUM_VFS: the PF as eth0 with $HOST_IP, NUM_VFS VFs bound to vfio-pci, MACs set by the PF. The order matters
# to igb: PF up before VFs are made, autoprobe off, then MAC, then vfio-pci.
pf_up() {
  local count=$1 i v
  modprobe -a kvm_amd vfio-pci && modprobe igb max_vfs=0 || return 1
  wait_for 30 "the network card of the PF" test -e /sys/class/net/$PF || return 1
  ip addr add $HOST_IP/24 dev $PF && ip link set $PF up || return 1
  wait_for 30 "the link of $PF" grep -qx 1 /sys/class/net/$PF/carrier || return 1
  ((count == 0)) && return 0
  echo 0 >/sys/class/net/$PF/device/sriov_drivers_autoprobe
  echo "$count" >/sys/class/net/$PF/device/sriov_numvfs || return 1
  for ((i = 0; i < count; i++)); do
    wait_for 10 "VF $i" test -e /sys/class/net/$PF/device/virtfn$i || return 1
    ip link set $PF vf $i mac "$(printf '52:54:00:aa:00:%02x' $((i + 1)))" || return 1
    v=$(vf_bdf $i)
    echo vfio-pci >/sys/bus/pci/devices/$v/driver_override
    echo "$v" >/sys/bus/pci/drivers_probe
    wait_for 10 "vfio-pci on $v" test -e /sys/bus/pci/drivers/vfio-pci/$v || return 1
  done
}
# vf_bdf INDEX: PCI address of a VF of the PF.
vf_bdf() { basename "$(readlink -f /sys/class/net/$PF/device/virtfn"$1")"; }

# bridge_up: br0 over the PF takes the PF's address, so that tap guests and VF guests are in one network.
bridge_up() {
  # With an address of its own choice br0 would change it to that of the lowest tap.
  modprobe -a bridge tun vhost_net && ip link add br0 address "$(<"/sys/class/net/$PF/address")" type bridge || return 1
  ip link set br0 up || return 1
  ip addr del $HOST_IP/24 dev $PF && ip addr add $HOST_IP/24 dev br0 && ip link set $PF master br0 || return 1
  # The 82576 drops unicast frames to MACs it does not own unless it is promiscuous; a bridge port is.
  wait_for 10 "forwarding on $PF" grep -qx 3 /sys/class/net/$PF/brport/state
}

# --- nested guests -------------------------------------------------------------------------------------------------
# guest_start NAME IP VCPUS QEMU-ARGS...: starts a guest and returns at once. Its files: /tmp/NAME.{log,qemu,pid} and
# the sockets /tmp/NAME.{qmp,mon}. A guest that ends without guest_down broke down in emulation, and xtask is told.
guest_start() { rm -f "/tmp/$1".*; guest_run "$@" & }
guest_run() {
  local name=$1 ip=$2 vcpus=$3
  shift 3
  qemu-system-x86_64 -M q35 -accel kvm -cpu host -smp "$vcpus" -m 384M -name "guest=$name,debug-threads=on" \
    -kernel "/images/kernel-$KERNEL/vmlinuz" -initrd /run-files/guest.cpio \
    -append "console=ttyS0 quiet panic=-1 guestip=$ip" \
    -nodefaults -display none -no-reboot -serial "file:/tmp/$name.log" \
    -qmp "unix:/tmp/$name.qmp,server=on,wait=off" -monitor "unix:/tmp/$name.mon,server=on,wait=off" \
    -pidfile "/tmp/$name.pid" "$@" >"/tmp/$name.qemu" 2>&1
  [[ -e /tmp/$name.ending ]] ||
    trouble "guest $name ended by itself: $(tail -qn 1 "/tmp/$name.qemu" "/tmp/$name.log" | tr '\n\r' '  ')"
}
# guest_wait NAME: until the guest says that it is up; GUEST_PID is then its QEMU.
guest_wait() {
  local name=$1
  if wait_for 150 "guest $name" guest_settled "$name" && grep -aq GUEST-UP "/tmp/$name.log"; then
    GUEST_PID=$(cat "/tmp/$name.pid")
    grep -a GUEST-PROBLEM "/tmp/$name.log" && return 1
    return 0
  fi
  trouble "guest $name does not come up"
  cat "/tmp/$name.qemu" "/tmp/$name.log" >&2
  return 1
}
# Up, or its QEMU is gone: either ends the wait.
guest_settled() { grep -aq GUEST-UP "/tmp/$1.log" || { [[ -e /tmp/$1.pid ]] && ! kill -0 "$(cat "/tmp/$1.pid")"; }; }
guest_pid() { cat "/tmp/$1.pid"; }
# guest_vf NAME IP VCPUS VF-INDEX [QEMU-ARGS...]: a guest with a VF.
guest_vf() { guest_vf_start "$@" && guest_wait "$1"; }
guest_vf_start() { guest_start "$1" "$2" "$3" -device "vfio-pci,host=$(vf_bdf "$4")" "${@:5}"; }
# guest_tap NAME IP VCPUS virtio|vhost|e1000 [QEMU-ARGS...]: a guest on br0 by tap-NAME; virtio is served by QEMU
# itself, vhost by the kernel thread.
guest_tap() { guest_tap_start "$@" && guest_wait "$1"; }
guest_tap_start() {
  local name=$1 ip=$2 vcpus=$3 kind=$4 tap=tap-$1 vhost=off card=virtio-net-pci mac
  shift 4
  case $kind in virtio) ;; vhost) vhost=on ;; e1000) card=e1000 ;; *) echo "lab: no card '$kind'" >&2; return 2 ;; esac
  ip tuntap add "$tap" mode tap && ip link set "$tap" master br0 up || return 1
  mac=$(printf '52:54:00:bb:00:%02x' "${ip##*.}")
  guest_start "$name" "$ip" "$vcpus" -netdev "tap,id=n,ifname=$tap,script=no,downscript=no,vhost=$vhost" \
    -device "$card,netdev=n,mac=$mac,romfile=" "$@"
}
# guest_monitor NAME COMMAND...: a line for the guest's human monitor (`system_reset`, `info cpus`, ...).
guest_monitor() { echo "${*:2}" | socat -t 5 - "UNIX-CONNECT:/tmp/$1.mon"; }
# guest_do NAME COMMAND...: a line for the shell in a guest that was started with $(guest_port NAME); its output is not seen.
guest_port() { echo "-serial unix:/tmp/$1.tty,server=on,wait=off"; }
guest_do() { echo "${*:2}" | socat -t 1 - "UNIX-CONNECT:/tmp/$1.tty" >/dev/null; }
# guest_down NAME: quits the guest's QEMU and waits until it is gone.
guest_down() {
  local pid
  pid=$(guest_pid "$1") || return 1
  touch "/tmp/$1.ending"
  guest_monitor "$1" quit >/dev/null
  wait_for 30 "the end of guest $1" guest_gone "$pid"
}
guest_gone() { ! kill -0 "$1"; }
# vcpu_tid NAME INDEX: thread id of a vCPU.
vcpu_tid() {
  local t
  for t in /proc/"$(guest_pid "$1")"/task/*; do
    [[ $(<"$t/comm") == "CPU $2/KVM" ]] && { basename "$t"; return 0; }
  done
  return 1
}

# --- load and state ------------------------------------------------------------------------------------------------
# load_up: a busy thread per host CPU, until load_down.
load_up() {
  stress-ng --cpu "$(nproc)" --cpu-method loop >/tmp/load.log 2>&1 &
  LOAD_PID=$!
  wait_for 20 "the CPU load" load_runs
}
load_runs() { (($(pgrep -c -P "$LOAD_PID") >= $(nproc))); }
load_down() {
  kill "$LOAD_PID" && wait "$LOAD_PID"
  LOAD_PID=
}

# affinities NAME: every setting of the host and of guest NAME that tuning may touch, one line each: affinity of all
# interrupts, the default mask, CPUs of the guest's threads.
affinities() {
  local f t value key
  # Reading with bash's own means: a process for every line takes a minute on a loaded host.
  for f in /proc/irq/*/smp_affinity_list /proc/irq/default_smp_affinity; do
    read -r value <"$f" && echo "$f = $value"
  done
  for t in /proc/"$(guest_pid "$1")"/task/*; do
    read -r value <"$t/comm"
    while read -r key f; do
      [[ $key == Cpus_allowed_list: ]] && echo "thread ${t##*/} ($value) = $f"
    done <"$t/status"
  done
}
# compare_settings BEFORE AFTER: two outputs of `affinities`; shows what differs and how much does not. Threads that
# QEMU started or ended in between have no setting to compare, and are named.
compare_settings() {
  awk -F ' = ' '
    NR == FNR { before[$1] = $2; next }
    !($1 in before) { print "new: " $1 " = " $2; next }
    before[$1] == $2 { same++; delete before[$1]; next }
    { print "changed: " $1 ": " before[$1] " -> " $2; changed++; delete before[$1] }
    END {
      for (gone in before) print "gone: " gone
      print same + 0 " settings are as before, " changed + 0 " changed"
      exit changed > 0
    }' "$1" "$2"
}
