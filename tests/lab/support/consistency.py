"""Scrapes without a pause while configurations come and go, and says whether every scrape was of one moment.

consistency.py URL OUT: scrapes until SIGTERM and once more, then reports as the lab's tests do. Within one scrape
`vfprobe_config_info` names one configuration, and no figure is of one that has not been named, by this scrape or an earlier one
(what the first scrape has was named before it). From one scrape to the next nothing falls, and only figures of a configuration
that one of the two names have grown. OUT is there after the first scrape, and in the end has a line for each: the
configuration and the number of samples, seconds.
"""

import pathlib
import re
import signal
import sys
import time
import urllib.request

LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def parse(text):
    """({(name, labels): value}, names that only grow)."""
    samples, growing = {}, set()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            if kind == "counter":
                growing.add(name)
            elif kind == "histogram":
                growing.update(name + ending for ending in ("_bucket", "_sum", "_count"))
        elif line and not line.startswith("#"):
            series, value = line.rsplit(" ", 1)
            name = series.split("{", 1)[0]
            samples[name, frozenset(LABEL.findall(series[len(name):]))] = float(value)
    return samples, growing


def config_of(labels):
    return next((value for label, value in labels if label == "config"), None)


def show(series):
    name, labels = series
    return name + "{" + ",".join(f'{label}="{value}"' for label, value in sorted(labels)) + "}"


class Watch:
    def __init__(self):
        self.named, self.before, self.config, self.problems = set(), {}, None, []
        self.grown = dict.fromkeys(("under the name", "all"), 0)

    def look(self, text):
        samples, growing = parse(text)
        infos = [config_of(labels) for name, labels in samples if name == "vfprobe_config_info"]
        if len(infos) != 1:
            self.problems.append(f"vfprobe_config_info names {infos}")
            return None
        now, before = infos[0], self.config
        self.named.add(now)
        if before is None:
            self.named.update(filter(None, map(config_of, (labels for _, labels in samples))))
        for series, value in samples.items():
            name, labels = series
            config = config_of(labels)
            if config is not None and config not in self.named:
                self.problems.append(f"{show(series)} while only {sorted(self.named)} were named")
            if name not in growing or series not in self.before:
                continue
            was = self.before[series]
            if value < was:
                self.problems.append(f"{show(series)} fell from {was} to {value}")
            elif value > was and config is not None:
                self.grown["all"] += 1
                if config == now:
                    self.grown["under the name"] += 1
                elif config != before:
                    self.problems.append(f"{show(series)} grew under {before} and {now}")
        self.before, self.config = samples, now
        return now, len(samples)


def report(name, problems):
    if problems:
        print(f"TEST {name} FAILED {len(problems)} times: {'; '.join(problems[:5])}")
    else:
        print(f"TEST {name} ok")


def main(url, out):
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    watch, lines, changes = Watch(), [], 0
    last = False
    while not last:
        last = bool(ended)
        start = time.monotonic()
        with urllib.request.urlopen(url, timeout=20) as answer:
            text = answer.read().decode()
        was = watch.config
        seen = watch.look(text)
        changes += seen is not None and was is not None and seen[0] != was
        lines.append(f"{seen}\t{time.monotonic() - start:.3f}\n")
        if len(lines) == 1:
            pathlib.Path(out).write_text(lines[0])
    pathlib.Path(out).write_text("".join(lines))
    report("scrapes-are-of-one-moment", watch.problems)
    report("scrapes-saw-changes", [] if changes >= 4 else [f"{changes} in {len(lines)} scrapes"])
    report("scrapes-saw-growth", [] if watch.grown["under the name"] else ["nothing grew"])
    print(f"{len(lines)} scrapes, {changes} changes of the configuration, {watch.grown}, named {sorted(watch.named)}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
