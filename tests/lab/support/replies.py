"""Whether vfprobe's figures of a ping that runs on are those of each run: the replies that fall between a run's bounds by
the time that `ping -D` gave each of them, counted anew.

    replies.py SESSION.json REPLIES OUTPUT
"""
import json
import re
import sys

with open(sys.argv[1], encoding="utf-8") as file:
    session = json.load(file)
with open(sys.argv[2], encoding="utf-8") as file:
    times = [float(t) for t in re.findall(r"^\[([0-9.]+)\] \d+ bytes from", file.read(), re.M)]
with open(sys.argv[3], encoding="utf-8") as file:
    said = file.read()
workloads = {workload["run"]: workload for workload in session["workloads"]}
alive, failed = 0, []
for run in session["runs"]:
    workload = workloads[run["order"]]
    if not workload["stopped"]:
        failed.append(run["order"])
        continue
    # By the clock of the day a run starts with its record, which is written as its window opens.
    start = run["started_unix_ms"] / 1e3
    end = start + (run["to_ns"] - run["from_ns"]) / 1e9
    inside = sum(start <= t <= end for t in times)
    received = sum(m["value"] for m in workload["metrics"] if m["name"] == "received")
    if inside and abs(inside - received) <= max(3, 0.1 * inside):
        alive += 1
    else:
        print(f"run {run['order']}: {received:.0f} replies, {inside} by their times", end="; ")
told = len(failed) == 1 and f"run {failed[0]} " in said and "was to run on" in said
print(f"{len(session['runs'])} runs, {alive} went on, {len(failed)} failed", "and is told" if told else "in silence")
