"""Runs every expression of dashboards and rules against a Prometheus, and reports as the lab's tests do.

expressions.py URL DASHBOARDS START OUT: asks the Prometheus at URL for each expression from START (Unix seconds) until
now. An expression fails when Prometheus refuses it, when it names a metric that was never scraped, or when its answer
is empty although nothing in OPTIONAL says why it may be. Of an alert, which is best when it has nothing to say, the same is asked
without its limit: what is compared with that must have an answer, so that its labels match. OUT gets one line each: series, points,
where, expression.
"""

import json
import pathlib
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

# What stands for Grafana's variables. Ranges are those of a short run.
VARIABLES = {
    "$__rate_interval": "30s",
    "$__range": "5m",
    "$instance": "127.0.0.1:19817",
    "$guest": "vm1|vm2",
    "$path": ".*",
    "$vf": ".*",
    "$cpu": ".*",
    "$kind": ".*",
    "$config": ".*",
    "$before": "baseline",
    "$after": "own",
}

# Why there may be nothing to show. A metric: it may be missing, and an expression that names no other may be empty. A panel or an alert:
# its expressions may be, whatever they name.
OPTIONAL = {
    "metrics": {
        "vfprobe_series_hidden_info": "the lab's kernels and processors hide no series",
        "vfprobe_path_dropped_total": "no packet of a guest that reads its tap is dropped",
        "vfprobe_vf_receive_packets_total": "the lab's driver, igb, tells nothing of what VFs count",
        "vfprobe_vf_receive_bytes_total": "the lab's driver, igb, tells nothing of what VFs count",
        "vfprobe_vf_receive_dropped_total": "the lab's driver, igb, tells nothing of what VFs count",
        "vfprobe_vf_transmit_packets_total": "the lab's driver, igb, tells nothing of what VFs count",
        "vfprobe_vf_transmit_bytes_total": "the lab's driver, igb, tells nothing of what VFs count",
        "vfprobe_vf_transmit_dropped_total": "the lab's driver, igb, tells nothing of what VFs count",
        "vfprobe_irq_delivery_not_accepted_total": "only where the hook that tells the slow path from user space is missing",
    },
    "panels": {
        "Packets in a merged one": "small packets are not merged",
        "Interrupts that are not where they were asked to go": "there are none",
        "VF packets for each interrupt": "the lab's driver, igb, tells nothing of what VFs count",
    },
    "alerts": {
        "VfprobeProbeFailed": "no probe has failed: what it looks for is a state",
    },
}

# The limit at the end of an alert's expression, or of a part of it. Matchers of labels have quotes behind their sign.
LIMIT = re.compile(r"\s(?:==|!=|<=|>=|<|>)\s*[-+]?\d[\d.e+-]*(?=\s|\)|$)")


def ask(url, path, **parameters):
    query = f"{url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    try:
        with urllib.request.urlopen(query, timeout=60) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        return json.load(error)


def expressions(folder):
    """(file, panel, expression)."""
    for path in sorted(folder.glob("grafana/*.json")):
        dashboard = json.loads(path.read_text())
        panels = list(dashboard["panels"])
        for panel in panels:
            panels += panel.get("panels", [])
            for target in panel.get("targets", []):
                yield path.stem, panel["title"], target["expr"]
        for annotation in dashboard["annotations"]["list"]:
            yield path.stem, "annotation " + annotation["name"], annotation["expr"]


def rules(url):
    """Rules as Prometheus itself has read them, with the health that its own evaluations have."""
    for group in ask(url, "rules")["data"]["groups"]:
        for rule in group["rules"]:
            yield pathlib.PurePath(group["file"]).stem, rule


def report(name, problems):
    if problems:
        print(f"TEST {name} FAILED {'; '.join(problems)[:2000]}")
    else:
        print(f"TEST {name} ok")


def main(url, folder, start, out):
    known = set(ask(url, "label/__name__/values")["data"])
    problems, lines = {}, []

    # What there is of panels and alerts: an entry of OPTIONAL that none has is left over.
    named = {"panels": set(), "alerts": set()}

    def check(file, title, expression, kind):
        bad = problems.setdefault(file, [])
        for variable, value in VARIABLES.items():
            expression = expression.replace(variable, value)
        metrics = set(re.findall(r"\b(?:\w+:)?vfprobe_\w+(?::\w+)?", expression))
        for metric in sorted(metrics - known - OPTIONAL["metrics"].keys()):
            bad.append(f"{title}: {metric} was never scraped")
        answer = ask(url, "query_range", query=expression, start=start, end=time.time(), step=2)
        if answer["status"] != "success":
            bad.append(f"{title}: {answer['error']} in {expression}")
            return
        series = answer["data"]["result"]
        numbers = [v for one in series for _, v in one["values"] if v not in ("NaN", "+Inf", "-Inf")]
        lines.append(f"{len(series)}\t{len(numbers)}\t{file}\t{title}\t{expression}")
        named[kind].add(title)
        optional = title in OPTIONAL[kind] or metrics and metrics <= OPTIONAL["metrics"].keys()
        if not numbers and not optional:
            bad.append(f"{title}: nothing but NaN" if series else f"{title}: empty: {expression}")

    for file, title, expression in expressions(folder):
        check(file, title, expression, "panels")
    firing = []
    for file, rule in rules(url):
        if rule["type"] == "alerting":
            check(file, rule["name"], LIMIT.sub("", rule["query"]), "alerts")
        else:
            check(file, rule["name"], rule["query"], "panels")
        if rule["health"] != "ok":
            problems[file].append(f"{rule['name']}: {rule['health']} {rule.get('lastError', '')}")
        firing += [rule["name"]] if rule.get("state") == "firing" else []
    pathlib.Path(out).write_text("".join(line + "\n" for line in lines))
    for file, bad in problems.items():
        report(f"expressions-{file}", bad)
    report("no-alert-fires", firing)
    strangers = [f"{kind}: {title}" for kind in named for title in OPTIONAL[kind].keys() - named[kind]]
    report("optional-ones-exist", strangers)
    print(f"{len(lines)} expressions")


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3], sys.argv[4])
