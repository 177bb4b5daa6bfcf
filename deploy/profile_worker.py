"""Shows where a worker's time goes: by its own code with py-spy, within the model with ONNX Runtime's profiler.

``make profile`` runs it, with the footage and the models of ``make bench``, and writes docs/benchmarks/profile.md. The
worker does a backlog on a real Kafka; py-spy looks a hundred times a second at each of its threads that is at work.
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import onnxruntime
import typer

from contract.command_line import run_command_line
from contract.errors import FramewatchError
from contract.manifest import open_bundle
from deploy.bench import OUT, fill_topic, fitted_bundle, room_clips, room_frames, say_versions, versions
from deploy.broker import STANDARD_TOPICS, LocalBroker, create_topics
from deploy.measured import table
from deploy.worker_process import WorkerProcess
from worker.cores import cores_given
from worker.parts import CLIPS_AT_ONCE

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "profile.md"
_SECONDS: Final = 15
_LOOKS_A_SECOND: Final = 100
_FRAMES: Final = 12_000
_READY_SECONDS: Final = 60.0
_RUN_SECONDS: Final = 300.0
_CLIPS: Final = 160
_SHOWN: Final = 14
_PARTS: Final = {
    "contract/frame.py": "decoding",
    "contract/motion.py": "motion",
    "contract/runtime.py": "model",
    "/kafka/": "Kafka client",
    "contract/steady_consumer.py": "Kafka client",
}
"""What a stack belongs to whose innermost frame of the worker's or the client's code lies there."""

_WAITING: Final = frozenset({"wait", "select", "acquire", "_worker", "wait_for_tstate_lock"})
"""Functions in which a thread waits, whatever the system says of it."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def profile(
    preset: Annotated[str, typer.Option(help="Preset to profile.")] = "balanced",
    precision: Annotated[str, typer.Option(help="fp32, fp16 or int8.")] = "fp32",
) -> None:
    """Profile, and write the page."""
    OUT.mkdir(exist_ok=True)
    bundle = fitted_bundle(preset, precision)
    stacks = _worker_stacks(bundle)
    told = {
        "versions": versions(),
        "cores": cores_given(),
        "preset": preset,
        "precision": precision,
        "parts": dict(shares(stacks)),
        "operators": dict(_operator_shares(bundle)),
    }
    PAGE.write_text(page(told), encoding="utf-8")
    typer.echo(json.dumps(told, indent=2))


def _worker_stacks(bundle: Path) -> list[str]:
    """Stacks of a worker that does a backlog, as py-spy writes them: frames, outermost first, and how often seen."""
    path = OUT / "stacks.txt"
    with LocalBroker(log_path=OUT / "kafka.log") as broker:
        create_topics(broker, STANDARD_TOPICS)
        fill_topic(broker.bootstrap_servers, room_frames(), _FRAMES)
        kafka = {
            "bootstrap_servers": broker.bootstrap_servers, "group_id": "profile", "auto_offset_reset": "earliest",
        }  # fmt: skip
        with WorkerProcess(OUT, {"bundle": str(bundle), "kafka": kafka}) as worker:
            worker.wait_until_ready(_READY_SECONDS)
            worker.wait_until_finished(_FRAMES // 20, _RUN_SECONDS)
            command = [
                str(Path(sys.executable).with_name("py-spy")), "record", "--pid", str(worker.pid), "--format", "raw",
                "--output", str(path), "--duration", str(_SECONDS), "--rate", str(_LOOKS_A_SECOND), "--threads",
            ]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_RUN_SECONDS)
            if done.returncode:
                raise FramewatchError(f"py-spy ended with {done.returncode}: {done.stderr.strip()[-300:]}")
            if worker.finished_frames() >= _FRAMES:
                raise FramewatchError("the worker was done before it was looked at; it needs a longer backlog")
            worker.stop()
    return path.read_text(encoding="utf-8").splitlines()


def shares(stacks: Iterable[str]) -> list[tuple[str, float]]:
    """Share of the looks that each part of the worker had, the largest first.

    Args:
        stacks: Lines of py-spy's raw format: ``function (file:line);...;function (file:line) count``.
    """
    seen: Counter[str] = Counter()
    for line in stacks:
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        if frames[-1].partition(" (")[0].rpartition(".")[2] not in _WAITING:
            seen[_part(frames)] += int(count)
    return _by_size(seen)


def _part(frames: list[str]) -> str:
    for frame in reversed(frames):
        function, _, place = frame.partition(" (")
        for where, part in _PARTS.items():
            if where in place:
                return part
        for package in ("worker/", "contract/"):
            if package in place:
                return f"{package}{place.rpartition(package)[2].partition(':')[0]}, {function}"
    return "the interpreter and libraries"


def _operator_shares(folder: Path) -> list[tuple[str, float]]:
    """Share of the detector's time on one thread that each kind of operator takes."""
    bundle = open_bundle(folder)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_profiling = True
    options.profile_file_prefix = str(OUT / "operators")
    graph = bundle.read_graph("detector.onnx")
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    clips = room_clips(bundle.manifest, _CLIPS)
    for start in range(0, len(clips), CLIPS_AT_ONCE):
        session.run(None, {"frames": clips[start : start + CLIPS_AT_ONCE]})
    path = Path(session.end_profiling())
    events = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    return operator_shares(events)


def operator_shares(events: Iterable[Mapping[str, Any]]) -> list[tuple[str, float]]:
    """Share of each kind of operator, the largest first.

    Args:
        events: Of ONNX Runtime's profile.
    """
    taken: Counter[str] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            taken[event["args"]["op_name"]] += event["dur"]
    return _by_size(taken)


def _by_size(seen: Counter[str]) -> list[tuple[str, float]]:
    total = sum(seen.values())
    return [(name, round(count / total, 4)) for name, count in seen.most_common()]


def page(told: dict[str, Any]) -> str:
    """Write the figures as a page."""
    return "\n".join(
        [
            "# Where the time goes",
            "",
            "Written by `make profile`; `deploy/profile_worker.py` says how. Preset",
            f"`{told['preset']}`, {told['precision']}, {told['cores']} cores. {say_versions(told)}.",
            "",
            "A worker at a backlog, all of its threads, by py-spy:",
            "",
            *table(("part", "share"), _rows(told["parts"])),
            "",
            f"The detector's graph on one thread, batches of {CLIPS_AT_ONCE}, by ONNX Runtime's profiler:",
            "",
            *table(("operator", "share"), _rows(told["operators"])),
            "",
        ]
    )


def _rows(parts: Mapping[str, float]) -> list[list[str]]:
    return [[name, f"{share:.1%}"] for name, share in list(parts.items())[:_SHOWN]]


if __name__ == "__main__":
    sys.exit(run_command_line(app, "profile"))
