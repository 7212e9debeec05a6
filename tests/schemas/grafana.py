"""Reads every dashboard into Grafana's own model and writes it back: what the model has no place for is lost, shown, and an error.

Needs the package grafana-foundation-sdk. grafana.py [FOLDER]: dashboards of this checkout unless a folder is given. Status 1 when
something was lost that KNOWN does not explain.
"""

import json
import pathlib
import re
import sys

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

OF_THE_DATA_SOURCE = "the Prometheus data source reads it; the model has only what all data sources share"
LATER = "later than the model, which is that of Grafana 10.1; in @grafana/schema since"
KNOWN = {
    ".annotations.list[].step": OF_THE_DATA_SOURCE,
    ".annotations.list[].titleFormat": OF_THE_DATA_SOURCE,
    ".annotations.list[].textFormat": OF_THE_DATA_SOURCE,
    ".annotations.list[].tagKeys": OF_THE_DATA_SOURCE,
    ".templating.list[].definition": LATER,
    ".panels[].options.tooltip.mode": LATER,
    ".panels[].options.namePlacement": LATER,
    ".panels[].options.sizing": LATER,
    ".panels[].options.maxVizHeight": LATER,
}


def lost(before, after, at):
    """Places and values that are not in `after`. What is off or empty need not be written."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            yield from lost(value, after.get(key), f"{at}.{key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for one, other in zip(before, after):
            yield from lost(one, other, at + "[]")
    elif before != after and (before or after):
        yield re.sub(r"\[\d+\]", "[]", at), before


def main(folder):
    register_default_plugins()
    bad = 0
    for path in sorted(folder.glob("*.json")):
        dashboard = json.loads(path.read_text())
        again = json.loads(json.dumps(Dashboard.from_json(dashboard), cls=JSONEncoder))
        found = [(at, value) for at, value in lost(dashboard, again, "") if at not in KNOWN]
        bad += len(found)
        print(f"{path.name}: {len(dashboard['panels'])} panels, {len(found)} values without a place")
        for at, value in found:
            print(f"  {at} {value!r}")
    return 1 if bad else 0


if __name__ == "__main__":
    here = pathlib.Path(__file__).resolve().parents[2] / "dashboards/grafana"
    sys.exit(main(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here))
