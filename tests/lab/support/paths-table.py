#!/usr/bin/env python3
"""The four-row table of `cargo xtask demo --paths`: FOLDER GUEST... ; reads what demo-paths.sh left in FOLDER.

CPU time of the host is that of the guest's threads outside the guest and of vhost, net of what the same guest takes while
idle, for each of the two packets of a round trip. Softirqs of the host are not in it.
"""

import json
import re
import sys
import time
from pathlib import Path

folder, guests = Path(sys.argv[1]), sys.argv[2:]
# From the clock of the windows to that of ping.
OFFSET = time.clock_gettime(time.CLOCK_REALTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


def load(name):
    return json.loads((folder / name).read_text())


def cpu_ns(report):
    cost = (report["taps"] + report["vfs"])[0]["cost"]
    return cost["vcpu_ns"] + cost["vmm_ns"] + cost["vhost_ns"], report["window_ns"]


def hops(report):
    """Hops of the host that most packets took: in, out."""
    if not report["taps"]:
        return "0, 0"
    now = report["gain"][0]["now"]
    return f'{now["hops_to_guest"]}, {now["hops_from_guest"]}'


def total_us(report):
    """Median time on the host to the guest: of a VF, from its interrupt until the guest is entered."""
    if report["taps"]:
        time = next(hop for hop in report["taps"][0]["to_guest"]["hops"] if hop["hop"] == "total")
    else:
        time = report["vfs"][0]["delivery"]
    return "-" if time["p50_ns"] is None else f'{time["p50_ns"] / 1000:.0f} us'


def round_trips(guest, report):
    """Times (ms) of the round trips that ended in the window."""
    start = report["from_ns"] / 1e9 + OFFSET
    end = start + report["window_ns"] / 1e9
    answers = re.findall(r"^\[([\d.]+)\] .* time=([\d.]+) ms", (folder / f"{guest}-ping.txt").read_text(), re.M)
    within = [float(ms) for at, ms in answers if start <= float(at) < end]
    if len(within) < 100:
        sys.exit(f"{guest} gave {len(within)} of {len(answers)} answers in the window: too few for a figure")
    return within


rows = [("path", "guest", "hops in, out", "throughput", "round trip", "n", "on the host, p50", "host CPU per packet")]
for guest in guests:
    busy, idle = load(f"{guest}-ping.json"), load(f"{guest}-idle.json")
    (with_traffic, window), (without, idle_window) = cpu_ns(busy), cpu_ns(idle)
    times = round_trips(guest, busy)
    net = (with_traffic - without * window / idle_window) / (2 * len(times))
    bits = load(f"{guest}-iperf3.json")["end"]["sum_received"]["bits_per_second"]
    rows.append((
        busy["taps"][0]["path"] if busy["taps"] else "vf",
        guest,
        hops(busy),
        f"{bits / 1e6:.1f} Mbit/s",
        f"{sum(times) / len(times):.2f} ms",
        str(len(times)),
        total_us(busy),
        f"{net / 1000:.0f} us",
    ))
widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
for row in rows:
    print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
print("\nround trip: mean of n pings from the host; those to the VF pass the emulated card, the others no card at all")
print("times of an emulated host compare only with each other")
