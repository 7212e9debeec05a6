# The packages on a host that systemd runs: installed, started beside a guest with a VF under the unit's hardening, keeping
# a policy, behind its socket, upgraded, kept while a configuration is in force, removed; the Debian package first, then the RPM package. Then in a
# container, with what packaging/kubernetes/daemonset.yaml grants, and with less and more.
# lab: kernels=6.12
# lab: limit=600
# lab: init=systemd
# lab: packages=yes
. /lab/support/lab.sh
trap 'keep_logs; journalctl --no-pager -b >/out/logs/journal' EXIT

URL=http://127.0.0.1:19817
SETTINGS=/etc/vfprobe/vfprobe.toml
# Of the packages only: /share comes first in the PATH of every group.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
deb() { echo /share/packages/"$1"/vfprobe_*.deb; }
rpm_file() { echo /share/packages/"$1"/vfprobe-*.rpm; }
rpm_here() { rpm --nodeps "$@"; }
fetch() { curl -sf -m 10 "$URL$1"; }
property() { systemctl show -p "$1" --value vfprobe; }
status_line() { awk -v key="$1:" '$1 == key { $1 = ""; print substr($0, 2) }' "/proc/$(property MainPID)/status"; }
answers() { fetch /metrics >/out/now.prom && grep -q "$1" /out/now.prom; }
counts() { # METRIC LABELS: the sum of such samples, as a whole number
  fetch /metrics | awk -v metric="$1" -v label="$2" 'index($0, metric "{") == 1 && index($0, label) { n += $NF } END { printf "%d\n", n }'
}
# The number of finite bounds of one histogram.
bounds() { fetch /metrics | grep '^vfprobe_irq_delivery_seconds_bucket' | grep -v '+Inf' | sed 's/.*le="//; s/".*//' | sort -u | wc -l; }
exits_counted() { (($(counts vfprobe_vm_exit_seconds_count 'guest="vm1"') > 0)); }
counted() { (($(counts vfprobe_irq_delivery_delivered_total 'guest="vm1"') > 0)); }
restarted() { [[ $(property MainPID) != "$1" && $(property ActiveState) == active ]]; }
fed() { [[ $(property WatchdogTimestampMonotonic) != "$1" ]]; }
gone() { [[ ! -e /usr/bin/vfprobe && $(property LoadState) == not-found ]]; }
traffic() { ping -q -c 50 -i 0.02 192.168.0.101 >/dev/null; }
refuses() { ! "$@" >/tmp/refused.log 2>&1 && grep -q 'vfprobe rollback' /tmp/refused.log; }

check pf pf_up 1
guest_vf_start vm1 192.168.0.101 1 0

# --- installed, and nothing started ---------------------------------------------------------------------------------
check deb-install dpkg --install "$(deb now)"
equal deb-enables-nothing disabled "$(systemctl is-enabled vfprobe)"
equal deb-starts-nothing inactive "$(systemctl is-active vfprobe)"
check guest guest_wait vm1
check answer wait_for 20 "an answer" ping -q -c 1 -W 1 192.168.0.101

# --- running, with what the unit gives and no more --------------------------------------------------------------------
check start systemctl enable --now vfprobe
check healthy wait_for 20 "/healthz" fetch /healthz
# cap_perfmon 38, cap_bpf 39, cap_sys_ptrace 19, cap_dac_read_search 2 (capability.h)
equal no-other-capability "$(printf '%016x' $((1 << 38 | 1 << 39 | 1 << 19 | 1 << 2)))" "$(status_line CapBnd)"
equal no-new-privileges 1 "$(status_line NoNewPrivs)"
equal seccomp 2 "$(status_line Seccomp)"
traffic
# Under the hardening the probes count, and the VF's owner is found.
check deliveries wait_for 30 "interrupts of vm1" counted
stamp=$(property WatchdogTimestampMonotonic)
check watchdog-is-fed wait_for 20 "a sign of life" fed "$stamp"
systemd-analyze security --no-pager vfprobe.service >/out/security.txt
check exposure grep -q 'Overall exposure level for vfprobe.service: [0-3]\.[0-9] OK' /out/security.txt
echo "# $(tail -n 1 /out/security.txt)"

# --- what the probes get under the hardening, on Debian's kernel --------------------------------------------------------
# hook PROBE: its state, and how it is attached or why not.
hook() { fetch /healthz | awk -v probe="$1" '$1 == probe { $1 = ""; print substr($0, 2) }'; }
# There perf_event_open(2) asks for CAP_SYS_ADMIN, whatever other capabilities there are; a sysctl changes that.
equal debian-is-paranoid 3 "$(</proc/sys/kernel/perf_event_paranoid)"
vm_exit=$(hook vm_exit)
echo "# vm_exit: $vm_exit"
check vm-exit-is-said-to-be-unsupported grep -q '^unsupported ' <<<"$vm_exit"
equal no-exits 0 "$(counts vfprobe_vm_exit_seconds_count 'guest="vm1"')"
sysctl -q kernel.perf_event_paranoid=2
check restart-less-paranoid systemctl restart vfprobe
check exits wait_for 20 "exits of vm1" exits_counted

# --- a policy, with the capabilities that the unit says to add for it ---------------------------------------------------
LATENCY=/sys/devices/system/cpu/cpu2/power/pm_qos_resume_latency_us
latency=$(<$LATENCY)
cp $SETTINGS /tmp/settings
printf 'name = "kept"\n[knobs]\nidle-latency-us = 20\n[[guest]]\nname = "vm1"\ncpus = "2"\nplacement = "own"\n' >/etc/vfprobe/policy.toml
echo 'policy = "policy.toml"' >>$SETTINGS
mkdir -p /etc/systemd/system/vfprobe.service.d
printf '[Service]\nCapabilityBoundingSet=CAP_SYS_NICE CAP_NET_ADMIN\n' >/etc/systemd/system/vfprobe.service.d/policy.conf
systemctl daemon-reload
check restart-with-a-policy systemctl restart vfprobe
check policy-in-force wait_for 40 "the policy in force" eval 'vfprobe verify >/tmp/verify.log && fetch /metrics | grep -q "vfprobe_config_info{config=\"kept\"}"'
equal idle-latency 20 "$(<$LATENCY)"
equal pinned "2" "$(taskset -cp "$(vcpu_tid vm1 0)" | sed 's/.*: //')"
# A stop undoes it, under the same hardening.
cp /tmp/settings $SETTINGS
rm -r /etc/vfprobe/policy.toml /etc/systemd/system/vfprobe.service.d
systemctl daemon-reload
check restart-without systemctl restart vfprobe
equal idle-latency-undone "$latency" "$(<$LATENCY)"
equal undone "" "$(ls /run/vfprobe/journal 2>/dev/null)"
check serves-without-a-policy wait_for 20 "/healthz" fetch /healthz

# --- the socket: systemd has the port, and the first scrape starts the service -------------------------------------------
check stop systemctl stop vfprobe.service
check socket systemctl enable --now vfprobe.socket
equal not-started inactive "$(property ActiveState)"
check first-scrape wait_for 30 "an answer" answers '^vfprobe_up 1'
equal started active "$(property ActiveState)"
check restart-behind-the-socket systemctl restart vfprobe.service
check answers-again answers '^vfprobe_up 1'
traffic
check counts-behind-the-socket wait_for 30 "interrupts of vm1" counted

# --- upgraded: restarted, with the operator's settings -----------------------------------------------------------------
echo 'bounds = "coarse"' >>$SETTINGS
pid=$(property MainPID)
check deb-upgrade dpkg --install "$(deb next)"
check restarted wait_for 30 "the service's restart" restarted "$pid"
check settings-kept grep -qx 'bounds = "coarse"' $SETTINGS
check serves-again wait_for 20 "/healthz" fetch /healthz
traffic
check counts-again wait_for 30 "interrupts of vm1" counted
equal settings-used 14 "$(bounds)"

# --- not removed while something could not be put back ------------------------------------------------------------------
check apply vfprobe apply --guest vm1 --cpus 2 --placement own --yes
check deb-stays refuses dpkg --remove vfprobe
equal still-there installed "$(dpkg-query -W -f '${db:Status-Status}' vfprobe)"
check rollback vfprobe rollback
check deb-remove dpkg --remove vfprobe
check deb-gone gone
check settings-stay test -e $SETTINGS
check deb-purge dpkg --purge vfprobe
check nothing-stays test ! -e $SETTINGS -a ! -e /usr/share/vfprobe -a ! -e /etc/systemd/system/multi-user.target.wants/vfprobe.service \
  -a ! -e /etc/systemd/system/sockets.target.wants/vfprobe.socket

# --- the same by rpm --------------------------------------------------------------------------------------------------
check rpm-install rpm_here --install "$(rpm_file now)"
equal rpm-starts-nothing inactive "$(systemctl is-active vfprobe)"
check rpm-verify rpm_here --verify vfprobe
check rpm-start systemctl enable --now vfprobe
echo 'bounds = "coarse"' >>$SETTINGS
pid=$(property MainPID)
check rpm-upgrade rpm_here --upgrade "$(rpm_file next)"
check rpm-restarted wait_for 30 "the service's restart" restarted "$pid"
check rpm-settings-kept grep -qx 'bounds = "coarse"' $SETTINGS
check rpm-apply vfprobe apply --guest vm1 --cpus 2 --placement own --yes
check rpm-stays refuses rpm_here --erase vfprobe
check rpm-rollback vfprobe rollback
check rpm-remove rpm_here --erase vfprobe
check rpm-gone gone
check rpm-nothing-stays test ! -e /usr/share/vfprobe -a ! -e /usr/share/doc/vfprobe
# --- in a container ---------------------------------------------------------------------------------------------------
# box CAPABILITY...: starts `vfprobe serve` in an OCI container as the manifests have it, with these capabilities. Its root is
# this host's, read-only, because a development build is not static.
box() {
  mkdir -p /tmp/box/root /run/vfprobe && cd /tmp/box && rm -f config.json && crun spec || return 1
  mountpoint -q root || mount --bind / root || return 1
  python3 - "$@" <<'END' || return 1
import json, sys
with open("config.json") as file:
    spec = json.load(file)
process, linux = spec["process"], spec["linux"]
granted = ["CAP_" + name for name in sys.argv[1:]]
process.update(terminal=False, args=["/share/vfprobe", "serve"], noNewPrivileges=True, user={"uid": 0, "gid": 0})
process["capabilities"] = {name: granted for name in ("bounding", "effective", "permitted")}
spec["root"] = {"path": "root", "readonly": True}
linux["namespaces"] = [space for space in linux["namespaces"] if space["type"] not in ("pid", "network", "cgroup")]
linux.pop("resources", None)
host = ["rbind", "ro", "nosuid", "nodev"]
spec["mounts"] = [mount for mount in spec["mounts"] if mount["destination"] not in ("/sys", "/sys/fs/cgroup")]
for path in ("/sys", "/sys/kernel/tracing", "/run/vfprobe", "/share"):
    spec["mounts"].append({"destination": path, "type": "bind", "source": path, "options": host})
with open("config.json", "w") as file:
    json.dump(spec, file)
END
  crun --cgroup-manager=disabled run box >/tmp/box.log 2>&1 &
  BOX=$!
  wait_for 30 "/healthz" fetch /healthz
}
box_down() { crun --cgroup-manager=disabled kill box TERM && wait "$BOX"; crun --cgroup-manager=disabled delete -f box 2>/dev/null; cd /; }

check box box BPF PERFMON SYS_PTRACE DAC_READ_SEARCH
traffic
check box-deliveries wait_for 30 "interrupts of vm1" counted
equal box-slow-path "running fexit, raw tracepoint; without slow_path" "$(hook irq_delivery)"
check box-ends box_down
check bigger-box box BPF PERFMON SYS_PTRACE DAC_READ_SEARCH SYSLOG
equal bigger-box-slow-path "running fexit, raw tracepoint" "$(hook irq_delivery)"
check bigger-box-ends box_down
check smaller-box box BPF PERFMON
traffic
fetch /metrics >/out/smaller.prom
check smaller-box-answers grep -q '^vfprobe_up 1' /out/smaller.prom
# What a VMM has open tells that it is one.
equal smaller-box-guests 0 "$(grep -c 'guest="vm1"' /out/smaller.prom)"
check smaller-box-ends box_down
check guest-ends guest_down vm1
