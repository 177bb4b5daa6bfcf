"""The exporter's command line: ``exporter build``, ``exporter sign`` and ``exporter register``."""

import logging
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from contract.command_line import AllowPlaintext, RegistryAddress, Version, run_command_line
from contract.errors import ConfigError
from contract.manifest import Precision, sign_bundle
from contract.registry import Registry

app = typer.Typer(
    help="Turns a run folder into a bundle of ONNX graphs that give what PyTorch gives.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
_console = Console(stderr=True)

Aliases = Annotated[
    list[str] | None, typer.Option("--alias", help="Alias of the registered version, such as challenger; may repeat.")
]


@app.callback()
def _set_up(*, _version: Version = False) -> None:
    # The libraries underneath announce each of their passes.
    warnings.simplefilter("ignore")
    logging.basicConfig(level=logging.ERROR)


@app.command()
def build(
    run: Annotated[Path, typer.Argument(help="Run folder of trainer fit.")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle to write.")],
    precision: Annotated[str, typer.Option(help="fp32, fp16 or int8.")] = "fp32",
    name: Annotated[str | None, typer.Option(help="Name of the bundle; that of --out where not given.")] = None,
    register_as: Annotated[
        str | None, typer.Option("--register", metavar="NAME", help="Register it under this name too.")
    ] = None,
    alias: Aliases = None,
    registry: RegistryAddress = None,
    *,
    registry_allow_plaintext: AllowPlaintext = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle at --out.")] = False,
) -> None:
    """Export a run, compare it with PyTorch, write a bundle, and register it where asked to."""
    formats: dict[str, Precision] = {"fp32": "fp32", "fp16": "fp16", "int8": "int8"}
    if precision not in formats:
        raise ConfigError(f"--precision {precision!r} is not one of {', '.join(formats)}")
    if alias and register_as is None:
        raise ConfigError("--alias belongs with --register")
    # Before any work is done: an address that is none.
    models = Registry(registry, allow_plaintext=registry_allow_plaintext) if register_as is not None else None
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
    if models is not None and register_as is not None:
        _register(models, register_as, out, run, alias)
    typer.echo(out)


@app.command()
def register(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    name: Annotated[str, typer.Argument(help="Of the registered model.")],
    run: Annotated[Path | None, typer.Option(help="Run folder it was built from, for its curves.")] = None,
    alias: Aliases = None,
    registry: RegistryAddress = None,
    *,
    registry_allow_plaintext: AllowPlaintext = False,
) -> None:
    """Register a bundle that was built, and signed, before; again, it keeps its version."""
    _register(Registry(registry, allow_plaintext=registry_allow_plaintext), name, bundle, run, alias)


@app.command()
def sign(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    key: Annotated[
        Path, typer.Option(help="Private Ed25519 key in PEM; openssl genpkey -algorithm ed25519 makes one.")
    ],
) -> None:
    """Sign a bundle, for workers that run only what the key's owner has signed."""
    typer.echo(sign_bundle(bundle, key))


def _register(models: Registry, name: str, bundle: Path, run: Path | None, aliases: list[str] | None) -> None:
    files = {path.name: path for path in sorted(run.glob("*.png"))} if run is not None else {}
    version = models.register(name, bundle, files=files, aliases=aliases or ())
    _console.print(f"models:/{name}/{version} in registry {models}", highlight=False, soft_wrap=True, markup=False)


def main() -> None:
    """Run the command line and exit."""
    sys.exit(run_command_line(app, "exporter"))


if __name__ == "__main__":
    main()
