#!/usr/bin/env python3
"""Writes what vfprobe reads of a host as one text file, so that a test can lay it out again.

Usage: capture.py NAME >NAME.tree        as root, on the host. Only files listed here are read, nothing is changed.
Format: `file PATH`, `raw PATH` (no newline at its end), `link PATH -> TARGET` or `dir PATH`; the lines of a file follow, each
behind a tab, with \\0 for NUL and \\\\ for a backslash. Host name and boot id are replaced.
"""
import glob, os, sys

FILES = """
/proc/interrupts /proc/cmdline /proc/1/comm /proc/irq/default_smp_affinity
/proc/irq/[0-9]*/smp_affinity_list /proc/irq/[0-9]*/effective_affinity_list
/proc/sys/kernel/osrelease
/sys/devices/system/cpu/online /sys/devices/system/cpu/present /sys/devices/system/cpu/isolated
/sys/devices/system/cpu/nohz_full /sys/devices/system/cpu/smt/active /sys/devices/system/cpu/smt/control
/sys/devices/system/cpu/cpu[0-9]*/topology/thread_siblings_list
/sys/devices/system/cpu/cpu[0-9]*/topology/physical_package_id
/sys/devices/system/cpu/cpu[0-9]*/cache/index*/level
/sys/devices/system/cpu/cpu[0-9]*/cache/index*/shared_cpu_list
/sys/devices/system/node/node[0-9]*/cpulist
/sys/module/kvm/parameters/* /sys/module/kvm_intel/parameters/* /sys/module/kvm_amd/parameters/*
/sys/kernel/debug/kvm/[0-9]*/vcpu[0-9]*/pid
/sys/class/iommu/*/intel-iommu/cap
/sys/kernel/security/lockdown
/sys/devices/system/cpu/cpufreq/policy[0-9]*/scaling_governor /sys/devices/system/cpu/cpufreq/policy[0-9]*/affected_cpus
/sys/devices/system/cpu/cpufreq/policy[0-9]*/energy_performance_preference
/sys/devices/system/cpu/cpu[0-9]*/cpuidle/state[0-9]*/name /sys/devices/system/cpu/cpu[0-9]*/cpuidle/state[0-9]*/latency
/sys/devices/system/cpu/cpu[0-9]*/cpuidle/state[0-9]*/disable
/sys/devices/system/cpu/cpu[0-9]*/power/pm_qos_resume_latency_us
/sys/kernel/mm/ksm/run /sys/kernel/mm/transparent_hugepage/enabled /sys/kernel/mm/transparent_hugepage/defrag
/proc/sys/kernel/numa_balancing /proc/sys/kernel/soft_watchdog /proc/sys/kernel/nmi_watchdog /proc/sys/kernel/watchdog_cpumask
/sys/kernel/debug/irq/domains/VECTOR /etc/tuned/active_profile
""".split()
PCI_FILES = "numa_node local_cpulist class vendor device".split()
PCI_LINKS = "driver iommu_group physfn virtfn[0-9]*".split()
REPLACED = {"/proc/sys/kernel/hostname": "host\n", "/proc/sys/kernel/random/boot_id": "00000000-0000-4000-8000-000000000001\n"}


def text(path, content):
    kind = "file" if content.endswith("\n") else "raw"
    print(kind, path.lstrip("/"))
    body = content[:-1] if kind == "file" else content
    for line in body.replace("\\", "\\\\").replace("\0", "\\0").split("\n"):
        print("\t" + line)


def file(path, keys=()):
    """A whole file, or only its lines `key: value` with one of these keys."""
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            lines = f.read().splitlines(keepends=True)
        text(path, "".join(l for l in lines if not keys or l.split(":")[0].strip() in keys))
    except OSError as error:
        print(f"{path}: {error.strerror}", file=sys.stderr)


def link(path):
    try:
        print("link", path.lstrip("/"), "->", os.readlink(path))
    except OSError as error:
        print(f"{path}: {error.strerror}", file=sys.stderr)


def processes():
    """Those that hold a virtual machine, and the kernel threads that work for one."""
    for directory in sorted(glob.glob("/proc/[0-9]*"), key=lambda d: int(d[6:])):
        fds = sorted(glob.glob(directory + "/fd/*"))
        try:
            targets = [os.readlink(fd) for fd in fds]
        except OSError:
            continue
        with open(directory + "/comm") as f:
            worker = f.read().startswith(("vhost-", "kvm-pit/"))
        if "anon_inode:kvm-vm" not in targets and not worker:
            continue
        print("dir", directory.lstrip("/") + "/fd")
        for name in ("comm", "cmdline", "stat", "cgroup"):
            file(f"{directory}/{name}")
        for fd, target in zip(fds, targets):
            if target.startswith(("anon_inode:kvm", "/dev/")):
                link(fd)
            if target == "/dev/net/tun":
                file(fd.replace("/fd/", "/fdinfo/"), ("pos", "iff"))
        for task in sorted(glob.glob(directory + "/task/*")):
            file(f"{task}/stat")
            file(f"{task}/status", ("Name", "Tgid", "Cpus_allowed_list"))


print(f"# {sys.argv[1]}: captured by tests/hosts/capture.py")
for path, content in REPLACED.items():
    text(path, content)
for pattern in FILES:
    for path in sorted(glob.glob(pattern)):
        file(path)
file("/proc/cpuinfo", ("processor", "vendor_id", "model name"))
file("/proc/meminfo", ("HugePages_Total", "HugePages_Free"))
for node in sorted(glob.glob("/sys/devices/system/cpu/cpu[0-9]*/node[0-9]*")):
    link(node)
for device in sorted(glob.glob("/sys/bus/pci/devices/*")):
    if glob.glob(device + "/physfn") or glob.glob(device + "/virtfn*"):
        for name in PCI_FILES:
            file(f"{device}/{name}")
        for pattern in PCI_LINKS:
            for path in sorted(glob.glob(f"{device}/{pattern}")):
                link(path)
        for path in sorted(glob.glob(device + "/net/*/address") + glob.glob(device + "/net/*/phys_port_name")):
            file(path)
        for path in sorted(glob.glob(device + "/vfio-dev/*")):
            print("dir", path.lstrip("/"))
for netdev in sorted(glob.glob("/sys/class/net/*")):
    for name in ("ifindex", "tun_flags"):
        if os.path.exists(f"{netdev}/{name}"):
            file(f"{netdev}/{name}")
    for path in [f"{netdev}/master", f"{netdev}/device", *sorted(glob.glob(f"{netdev}/lower_*"))]:
        if os.path.islink(path):
            link(path)
processes()
