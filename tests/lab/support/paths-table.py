#!/usr/bin/env python3
"""The four-row table of `cargo xtask demo --paths`: FOLDER PINGS GUEST... ; reads what demo-paths.sh left in FOLDER.

CPU time of the host is that of the guest's threads outside the guest and of vhost, net of what the same guest takes while
idle, for each of the two packets of a round trip. Interrupts and softirqs of the host are not in it.
"""

import json
import re
import sys
from pathlib import Path

folder, pings, guests = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]


def load(name):
    return json.loads((folder / name).read_text())


def cpu_ns(report):
    cost = (report["taps"] + report["vfs"])[0]["cost"]
    return cost["vcpu_ns"] + cost["vmm_ns"] + cost["vhost_ns"], report["window_ns"]


def hops(report):
    """Hops of the host that packets were seen to take: in, out."""
    if not report["taps"]:
        return "0, 0"
    ways = (report["taps"][0][way]["hops"] for way in ("to_guest", "from_guest"))
    return ", ".join(str(sum(1 for hop in way if hop["hop"] != "total" and hop["n"])) for way in ways)


def total_us(report):
    """Median time on the host to the guest: of a VF, from its interrupt until the guest is entered."""
    if report["taps"]:
        time = next(hop for hop in report["taps"][0]["to_guest"]["hops"] if hop["hop"] == "total")
    else:
        time = report["vfs"][0]["delivery"]
    return "-" if time["p50_ns"] is None else f'{time["p50_ns"] / 1000:.0f} us'


rows = [("path", "guest", "hops in, out", "throughput", "round trip", "on the host, p50", "host CPU per packet")]
for guest in guests:
    busy, idle = load(f"{guest}-ping.json"), load(f"{guest}-idle.json")
    (with_traffic, window), (without, idle_window) = cpu_ns(busy), cpu_ns(idle)
    net = (with_traffic - without * window / idle_window) / (2 * pings)
    text = (folder / f"{guest}-ping.txt").read_text()
    answers = int(re.search(r"(\d+) received", text)[1])
    if answers < pings * 0.95:
        sys.exit(f"{guest} answered {answers} of {pings}: no figure for its round trip")
    mean = float(text.split(" = ")[1].split("/")[1])
    bits = load(f"{guest}-iperf3.json")["end"]["sum_received"]["bits_per_second"]
    path = busy["taps"][0]["path"] if busy["taps"] else "vf"
    rows.append(
        (path, guest, hops(busy), f"{bits / 1e6:.1f} Mbit/s", f"{mean:.2f} ms", total_us(busy), f"{net / 1000:.0f} us")
    )
widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
for row in rows:
    print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
print(f"\nround trip: mean of {pings} pings; times of an emulated host compare only with each other")
