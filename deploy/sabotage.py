"""``worker run`` with something wrong in it, for the fault suite: ``python -m deploy.sabotage JSON run --config FILE``.

The JSON object names what is wrong. Most happen once a file that they name is there, which another process makes:

slow   {"slow": FILE, "seconds": S}   one batch takes so long; the file is removed, so that it happens once
fail   {"fail": FILE}                 inference fails while the file is there
clock  {"clock": FILE, "seconds": S}  the wall clock is off by so much while the file is there
codec  {"codec": NAME}                the client's library for a codec is missing, from the start
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import kafka.codec
import numpy as np
import numpy.typing as npt

from contract.errors import FramewatchError
from contract.runtime import Detector
from contract.scoring import FloatArray


def sabotage(wrong: dict[str, Any]) -> None:
    """Put what is wrong into this process."""
    score = Detector.score
    wall = time.time

    def bad_score(self: Detector, frames: npt.NDArray[np.uint8]) -> tuple[FloatArray, FloatArray]:
        if "slow" in wrong and Path(wrong["slow"]).exists():
            Path(wrong["slow"]).unlink()
            time.sleep(wrong["seconds"])
        if "fail" in wrong and Path(wrong["fail"]).exists():
            raise FramewatchError("inference failed, as it was told to")
        return score(self, frames)

    def bad_clock() -> float:
        return wall() + (wrong["seconds"] if Path(wrong["clock"]).exists() else 0)

    if "codec" in wrong:
        setattr(kafka.codec, wrong["codec"], None)
    if "clock" in wrong:
        time.time = bad_clock
    else:
        Detector.score = bad_score  # type: ignore[method-assign]


if __name__ == "__main__":
    sabotage(json.loads(sys.argv.pop(1)))
    from worker.__main__ import main

    main()
