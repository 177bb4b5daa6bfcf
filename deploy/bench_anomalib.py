"""Anomalib's way for a picture after another, for `deploy.bench`: a PaDiM of its own, in OpenVINO, as it ships them.

PaDiM over a ResNet-18 with random weights, since speed does not depend on them, at Anomalib's own size of 256x256.
``fit`` fits it to pictures and exports it; ``score`` decodes JPEG pictures whole, as Anomalib's inferencer takes them,
and says how many and how long it took, of the third picture to the last. No Kafka, no batches, no clips.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import cv2
import numpy as np

_FITTED_ON = 64
_WARM = 2


def fit(pictures: Path, out: Path) -> None:
    """Fit to a folder of pictures and write the exported model."""
    from anomalib.data import Folder
    from anomalib.deploy import ExportType
    from anomalib.engine import Engine
    from anomalib.models import Padim

    data = Folder(
        "room", normal_dir=pictures, train_batch_size=16, eval_batch_size=16, num_workers=0, test_split_mode="none",
        val_split_mode="from_train", val_split_ratio=0.25,
    )  # fmt: skip
    model = Padim(backbone="resnet18", layers=["layer1", "layer2", "layer3"], pre_trained=False)
    engine = Engine(default_root_dir=out / "engine", logger=False, accelerator="cpu", devices=1)
    engine.fit(model, datamodule=data)
    engine.export(model, export_type=ExportType.OPENVINO, export_root=out)


def score(model: Path, pictures: Path, frames: int) -> str:
    """Score so many pictures, over again where there are fewer; JSON with ``frames`` and ``seconds``."""
    from anomalib.deploy import OpenVINOInferencer

    encoded = [np.frombuffer(file.read_bytes(), np.uint8) for file in sorted(pictures.glob("*.jpg"))]
    model = model.absolute()
    # It keeps compiled models in the folder that it finds itself in.
    os.chdir(model.parent)
    inferencer = OpenVINOInferencer(model, device="CPU")
    began = 0.0
    for number in range(frames + _WARM):
        if number == _WARM:
            began = time.monotonic()
        picture = cv2.imdecode(encoded[number % len(encoded)], cv2.IMREAD_COLOR)
        inferencer.predict(cv2.cvtColor(np.asarray(picture), cv2.COLOR_BGR2RGB))
    return json.dumps({"frames": frames, "seconds": time.monotonic() - began})


def main() -> None:
    """Fit or score."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    fitting = commands.add_parser("fit")
    fitting.add_argument("pictures", type=Path)
    fitting.add_argument("out", type=Path)
    scoring = commands.add_parser("score")
    scoring.add_argument("model", type=Path)
    scoring.add_argument("pictures", type=Path)
    scoring.add_argument("--frames", type=int, required=True)
    asked = parser.parse_args()
    if asked.command == "fit":
        fit(asked.pictures, asked.out)
    else:
        sys.stdout.write(score(asked.model, asked.pictures, asked.frames))


if __name__ == "__main__":
    main()
