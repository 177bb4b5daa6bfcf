"""Prints what cameras tell, one line an alert, and keeps each event's snapshot; at-least-once, equal ids dropped.

pip install kafka-python; python consume_alerts.py localhost:9092 [FOLDER]
"""

import base64
import json
import sys
from pathlib import Path

from kafka import KafkaConsumer

SEEN_AT_MOST = 100_000


def main() -> None:
    """Follow the alerts topic until interrupted."""
    servers, folder = sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else None
    consumer = KafkaConsumer(
        "alerts",
        bootstrap_servers=servers,
        group_id="alerts-example",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        isolation_level="read_committed",  # for workers that run exactly-once; harmless otherwise
        max_partition_fetch_bytes=16 * 2**20,
    )
    seen: dict[str, None] = {}
    for record in consumer:
        alert = json.loads(record.value)
        if alert["id"] not in seen:
            seen[alert["id"]] = None
            if len(seen) > SEEN_AT_MOST:
                del seen[next(iter(seen))]
            tell(alert, folder)
        # What was told is committed after it was told: a crash in between tells it again, under the same id.
        consumer.commit()


def tell(alert: dict, folder: Path | None) -> None:
    """Print one alert and keep its picture."""
    data = alert["data"]
    what = alert["type"].removeprefix("framewatch.").removesuffix(".v1")
    detail = f", {data['severity']}, score {data['peak_score']:.2f}" if what.startswith("anomaly.") else ""
    print(f"{alert['time']} {alert['subject']} {what}{detail}", flush=True)
    picture = data.get("snapshot")
    if folder is not None and picture is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{alert['id']}.jpg").write_bytes(base64.b64decode(picture["base64"]))


if __name__ == "__main__":
    main()
