"""A bundle of made files, whole by its manifest, for tests of what keeps bundles and runs none."""

import json

from contract.event import EventRule
from contract.frame import Preprocessing
from contract.manifest import GRAPH_NAMES, MODEL_CARD_NAME, Manifest, ModelShape, ParityRow, digest_file
from tests.calibrations import made_calibration


def write_bundle(folder, version="v1"):
    """Write one into a new folder; another version has another digest."""
    folder.mkdir(parents=True)
    for name in GRAPH_NAMES:
        (folder / name).write_bytes(f"{name} {version}".encode())
    (folder / MODEL_CARD_NAME).write_text(f"# made {version}\n")
    rows = [
        ParityRow(output="anomaly_score", batch=batch, frames=4, largest_difference=batch / 1e5, tolerance=5e-4)
        for batch in (1, 2)
    ]
    manifest = Manifest(
        name="made",
        version=version,
        precision="fp32",
        files={path.name: digest_file(path) for path in sorted(folder.iterdir())},
        preprocessing=Preprocessing(height=64, width=64),
        shape=ModelShape(clip_frames=1, redrawn_frames=1, latent=(8,), anomaly_map=(4, 4)),
        calibration=made_calibration(),
        event_rule=EventRule(),
        training={"source": "hall.mp4", "epochs": 3, "settings": {"seed": 1}, "best_validation_loss": 0.25},
        parity=tuple(rows),
        quality={"auroc_disturbed": 0.98},
    )
    (folder / "manifest.json").write_text(json.dumps(manifest.model_dump(mode="json")))
    return folder
