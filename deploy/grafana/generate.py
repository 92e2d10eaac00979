"""``python -m deploy.grafana.generate``: write dashboards/*.json anew, beside this file.

Needs the pinned grafana-foundation-sdk of the dev extra; without the pin pip picks the schema of the oldest Grafana.
"""

from __future__ import annotations

from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.engine import engine_dashboard
from deploy.grafana.session import session_dashboard

FOLDER = Path(__file__).parent / "dashboards"


def dashboards() -> dict[str, str]:
    """Return the JSON of every dashboard by file name."""
    encoder = JSONEncoder(sort_keys=True, indent=2)
    built = [session_dashboard().build(), engine_dashboard().build()]
    for model in built:
        # links and saved views name a panel by its number
        for number, panel in enumerate(model.panels or [], start=1):
            panel.id_val = number
    return {f"{model.uid}.json": encoder.encode(model) + "\n" for model in built}


def main() -> None:
    """Write the files."""
    for name, text in dashboards().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
