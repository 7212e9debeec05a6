#!/usr/bin/python3
"""Judges by SciPy what vfprobe said of a tuning session.

    tune.py NAME.csv NAME.json NAME.compared.json

NAME.csv and NAME.json are the session's runs as `vfprobe show --csv` and `--json` export them, NAME.compared.json is what
`vfprobe compare --json` says of them. Nothing of vfprobe is used: runs are compared by SciPy's tests, and the tables by
Holm's procedure written anew. Prints a line for each figure that was judged and exits with 1 when the two disagree.

How near the two must be depends on what was exported. Figures of the workload are exact. Percentiles of the CSV are the
middle of a bucket that is up to 6.25 % wide, while vfprobe compares them interpolated.
"""
import csv
import json
import math
import sys

import numpy
from scipy import stats

# Half a bucket, as a logarithm: how far a percentile of the CSV may be from the one that was compared.
HALF_BUCKET = math.log(1.0313)
# A ratio nearer to 1 than this is no difference to vfprobe, whatever its interval.
MARGIN = math.log(1.05)
# vfprobe's documented widening of t (docs/statistics.md).
REACH = 1.06


class Runs:
    """Figures of two sides, one for each run, and what SciPy says of them."""

    def __init__(self, before, after, level):
        self.b, self.a = numpy.log(before), numpy.log(after)
        self.log_ratio = float(numpy.mean(self.a) - numpy.mean(self.b))
        self.welch = stats.ttest_ind(self.a, self.b, equal_var=False)
        v = [numpy.var(side, ddof=1) / len(side) for side in (self.b, self.a)]
        self.error = math.sqrt(sum(v))
        squares = sum(x * x / (len(side) - 1) for x, side in zip(v, (self.b, self.a)))
        self.freedom = sum(v) ** 2 / squares if squares else min(len(self.b), len(self.a)) - 1
        self.half = self.error * stats.t.ppf((1 + level) / 2, self.freedom)
        self.permutation = stats.permutation_test(
            (self.b, self.a), lambda x, y, axis: numpy.mean(y, axis=axis) - numpy.mean(x, axis=axis),
            vectorized=True, n_resamples=numpy.inf,
        ).pvalue

    def p(self, reach=REACH):
        return 2 * stats.t.sf(abs(self.log_ratio) / (reach * self.error), self.freedom) if self.error else None


def holm(p):
    """Adjusted p-values in the given order."""
    adjusted, reached = [0.0] * len(p), 0.0
    for passed, at in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        reached = max(reached, min(1.0, p[at] * (len(p) - passed)))
        adjusted[at] = reached
    return adjusted


def series_of_runs(path):
    """The rows of the CSV by series, configuration and run."""
    found = {}
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            labels = {k: row[k] for k in ("guest", "reason", "stage", "vf", "direction", "hop") if row.get(k)}
            key = (row["probe"], tuple(sorted(labels.items())))
            found.setdefault(key, {}).setdefault(row["config"], {})[int(row["run"])] = row
    return found


def figures_of_workloads(path, fit):
    """The workloads' figures by tool and name, and by configuration, of the runs that are compared."""
    found = {}
    with open(path, encoding="utf-8") as file:
        for workload in json.load(file)["workloads"]:
            if workload["run"] in fit:
                for metric in workload["metrics"]:
                    sides = found.setdefault((workload["tool"], metric["name"]), {})
                    sides.setdefault(workload["config"], []).append(metric["value"])
    return found


def fit_runs(path):
    """Runs that vfprobe may compare: whole, with a workload that did not fail, under a configuration that held."""
    with open(path, encoding="utf-8") as file:
        session = json.load(file)
    failed = {w["run"] for w in session["workloads"] if not w["stopped"] and w["exit_code"] != 0}
    drifted = {run["order"] for run in session["runs"] if "did not keep its configuration" in (run["unfit"] or "")}
    return {run["order"] for run in session["runs"] if run["complete"]} - failed - drifted


class Judge:
    def __init__(self):
        self.wrong, self.judged, self.decided = [], 0, 0

    def hold(self, name, ok, said):
        if not ok:
            self.wrong.append(f"{name}: {said}")

    def ratio_and_interval(self, name, said, runs, blur):
        """Ratio and interval: how far they may be from SciPy's for figures that are blurred by so much."""
        self.judged += 1
        low, high = (math.log(edge) for edge in said["ci"])
        ratio = math.log(said["ratio"])
        self.hold(name, abs(ratio - runs.log_ratio) <= 2 * blur + 1e-9,
                  f"ratio {said['ratio']:.4f}, SciPy {math.exp(runs.log_ratio):.4f}")
        # A bootstrap over few runs is not Welch's interval, and is smeared over the bucket. Blurred figures can be closer
        # together than the true ones.
        width, of_welch = high - low, 2 * runs.half
        least, most = 0.6 * of_welch - 4 * blur, 1.5 * of_welch + 6 * blur + 1e-9
        self.hold(name, least <= width <= most, f"interval {width:.4f} wide, Welch's {of_welch:.4f} (as logarithms)")
        self.hold(name, low <= runs.log_ratio + 2 * blur and high >= runs.log_ratio - 2 * blur,
                  f"interval {said['ci']} is beside SciPy's ratio {math.exp(runs.log_ratio):.4f}")

    def verdict(self, name, said, runs, p, blur, better):
        """The word, where SciPy is clear: `p` is Welch's, corrected when the row's is. The rest is a matter of method."""
        alpha = 1 - said["level"]
        word = said["verdict"]
        direction = {"lower": -1, "higher": 1}[better]
        gain = "better" if direction * runs.log_ratio > 0 else "worse"
        if p < alpha / 5 and abs(runs.log_ratio) > MARGIN + 4 * blur:
            self.decided += 1
            self.hold(name, word == gain, f"{word}, SciPy is sure of {gain} (p {p:.4g})")
        elif p > 3 * alpha or abs(runs.log_ratio) < MARGIN - 2 * blur:
            self.decided += 1
            self.hold(name, word == "no_difference", f"{word}, SciPy sees no difference (p {p:.4g})")
        else:
            self.hold(name, word in ("no_difference", gain), f"{word}, SciPy says {gain} or nothing (p {p:.4g})")


def main(runs_csv, runs_json, compared_json):
    fit = fit_runs(runs_json)
    series, workloads = series_of_runs(runs_csv), figures_of_workloads(runs_json, fit)
    with open(compared_json, encoding="utf-8") as file:
        compared = json.load(file)
    judge = Judge()

    def runs_of(row, kind):
        sides = [row["before"]["config"], row["after"]["config"]]
        if kind == "workload":
            found = workloads[(row["tool"], row["name"])]
            values = [found.get(side, []) for side in sides]
        else:
            labels = row["series"]["labels"]
            found = series[(row["series"]["probe"], tuple(sorted((k, str(v)) for k, v in labels.items())))]
            column = f"{row['quantile']}_ns".replace(".", "")
            values = [
                [float(r[column]) for order, r in sorted(found[side].items()) if order in fit and r[column]]
                for side in sides
            ]
        name = f"{row.get('tool') or row['series']['probe']} {row.get('name') or row['series']['labels']} {row.get('quantile', '')}"
        judge.hold(name, [len(v) for v in values] == [row["before"]["runs"], row["after"]["runs"]],
                   f"{row['before']['runs']} and {row['after']['runs']} runs, exported {[len(v) for v in values]}")
        return name, Runs(*values, row["level"])

    rows = []
    for kind, blur in (("series", HALF_BUCKET), ("workload", 0.0)):
        for row in compared["comparisons" if kind == "series" else "workloads"]:
            if row["ratio"] is not None:
                rows.append((row, kind, blur, *runs_of(row, kind)))
    # Holm's correction over the rows that vfprobe corrected, by SciPy's p-values.
    family = [i for i, (row, *_) in enumerate(rows) if row["p_holm"] is not None]
    corrected = dict(zip(family, holm([rows[i][4].p() or 0.0 for i in family])))
    for i, (row, kind, blur, name, runs) in enumerate(rows):
        judge.ratio_and_interval(name, row, runs, blur)
        if kind == "workload" and runs.error > 1e-9:
            judge.hold(name, math.isclose(row["p"], runs.p(), rel_tol=1e-6, abs_tol=1e-12),
                       f"p {row['p']:.6g}, Welch's {runs.p():.6g}")
        judge.verdict(name, row, runs, corrected.get(i, runs.p() or 0.0), blur, row.get("better", "lower"))

    # The one figure that the session's verdict is about: all vectors of the guest together.
    verdict = compared["verdict"] if isinstance(compared["verdict"], dict) else compared["verdict"][0]
    if verdict["ratio"] is None:
        judge.wrong.append(f"the verdict has no figures: {verdict['reason']}")
    else:
        name, runs = runs_of(verdict, "series")
        judge.ratio_and_interval("verdict", verdict, runs, HALF_BUCKET)
        judge.verdict("verdict", verdict, runs, runs.p() or 0.0, HALF_BUCKET, "lower")
        print(f"verdict {verdict['verdict']}: ratio {verdict['ratio']:.3f}, interval {verdict['ci'][0]:.3f} to {verdict['ci'][1]:.3f}; "
              f"SciPy: ratio {math.exp(runs.log_ratio):.3f}, Welch {math.exp(runs.log_ratio - runs.half):.3f} to "
              f"{math.exp(runs.log_ratio + runs.half):.3f}, p {runs.p(1.0):.4f}, permutations {runs.permutation:.4f}")
    print(f"{judge.judged} intervals, {judge.decided} verdicts that SciPy is sure of, {len(judge.wrong)} disagreements")
    for line in judge.wrong:
        print(f"  {line}")
    return 1 if judge.wrong or not judge.judged else 0


sys.exit(main(*sys.argv[1:4]))
