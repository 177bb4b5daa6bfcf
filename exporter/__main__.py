"""The exporter's command line: ``exporter build`` and ``exporter sign``."""

import logging
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from contract.command_line import run_command_line
from contract.errors import ConfigError
from contract.manifest import Precision, sign_bundle

app = typer.Typer(
    help="Turns a run folder into a bundle of ONNX graphs that give what PyTorch gives.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
_console = Console(stderr=True)


@app.callback()
def _set_up() -> None:
    # The libraries underneath announce each of their passes.
    warnings.simplefilter("ignore")
    logging.basicConfig(level=logging.ERROR)


@app.command()
def build(
    run: Annotated[Path, typer.Argument(help="Run folder of trainer fit.")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle to write.")],
    precision: Annotated[str, typer.Option(help="fp32, fp16 or int8.")] = "fp32",
    name: Annotated[str | None, typer.Option(help="Name of the bundle; that of --out where not given.")] = None,
    *,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle at --out.")] = False,
) -> None:
    """Export a run, compare it with PyTorch, and write a bundle."""
    formats: dict[str, Precision] = {"fp32": "fp32", "fp16": "fp16", "int8": "int8"}
    if precision not in formats:
        raise ConfigError(f"--precision {precision!r} is not one of {', '.join(formats)}")
    from exporter.build import build_bundle
    from exporter.parity import parity_table

    # Importing torch sets its loggers up anew; this one tells of packages that nothing here needs.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    manifest = build_bundle(
        run,
        out,
        formats[precision],
        name,
        overwrite=overwrite,
        on_parity=lambda rows: _console.print(parity_table(rows)),
    )
    quality = manifest.quality
    _console.print(
        f"AUROC on disturbed held-out frames {quality['auroc_disturbed']:.4f}, "
        f"PyTorch {quality['auroc_disturbed_pytorch']:.4f}; threshold {manifest.calibration.threshold:.3f}",
        highlight=False,
        soft_wrap=True,
    )
    typer.echo(out)


@app.command()
def sign(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    key: Annotated[
        Path, typer.Option(help="Private Ed25519 key in PEM; openssl genpkey -algorithm ed25519 makes one.")
    ],
) -> None:
    """Sign a bundle, for workers that run only what the key's owner has signed."""
    typer.echo(sign_bundle(bundle, key))


def main() -> None:
    """Run the command line and exit."""
    sys.exit(run_command_line(app, "exporter"))


if __name__ == "__main__":
    main()
