"""How every command of the project ends: its exit code, and one line for a mistake; and flags that parts share."""

import errno
import os
import sys
from typing import Annotated

import typer
from typer.exceptions import TyperException

from contract import __version__
from contract.errors import FramewatchError

# What a path that was given brings about, and what the machine does.
_MISTAKEN_PATH = frozenset({
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP,
})  # fmt: skip
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM})
_NOT_WRITTEN = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})

DONE, FAILED, MISTAKE = 0, 1, 2
INTERRUPTED = 130

RegistryAddress = Annotated[
    str | None,
    typer.Option("--registry", envvar="FRAMEWATCH_REGISTRY", help="Folder or MLflow server; ~/.framewatch/registry."),
]
AllowPlaintext = Annotated[
    bool,
    typer.Option(
        "--registry-allow-plaintext", envvar="FRAMEWATCH_REGISTRY_ALLOW_PLAINTEXT",
        help="Let a connection to the registry without TLS leave this machine.",
    ),
]  # fmt: skip


def _say_version(wanted: bool) -> None:  # noqa: FBT001 - how Typer calls it
    if wanted:
        typer.echo(f"framewatch {__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say the version and end.")
]


def run_command_line(app: typer.Typer, program: str, arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    Prints one line to standard error for a mistake of the caller's (2), for a failure that was foreseen (1)
    and for Ctrl-C (130). A defect of the program still shows its traceback.

    Args:
        app: The Typer application.
        program: Name shown in messages.
        arguments: Command line without the program's name; ``sys.argv`` where None.
    """
    try:
        result = app(args=arguments, prog_name=program, standalone_mode=False)
    except FramewatchError as error:
        return _complain(program, str(error), error.exit_code)
    except TyperException as error:
        message = error.format_message()
        return _complain(program, f"{message.rstrip('.')}; see {program} --help", MISTAKE) if message else MISTAKE
    except (KeyboardInterrupt, typer.Abort):
        return _complain(program, "interrupted", INTERRUPTED)
    except BrokenPipeError:
        return _lost_reader()
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # Typer ends the process itself then
            return _lost_reader()
        raise
    except OSError as error:
        return _complain_of_file(program, error)
    if result == INTERRUPTED:  # what Typer makes of KeyboardInterrupt
        return _complain(program, "interrupted", INTERRUPTED)
    return result if isinstance(result, int) else DONE


def _complain_of_file(program: str, error: OSError) -> int:
    """Say a file error of the caller's or the machine's; any other is a defect, and so is one that names no file."""
    if error.errno in _MISTAKEN_PATH and error.filename:
        return _complain(program, f"{_text(error.filename)}: {error.strerror}", MISTAKE)
    if error.errno not in _FORBIDDEN | _NOT_WRITTEN:
        raise error
    what = "cannot write" if error.errno in _NOT_WRITTEN else "cannot use"
    where = _text(error.filename) if error.filename else "a file"
    return _complain(program, f"{what} {where}: {error.strerror}", FAILED)


def _text(path: str | bytes) -> str:
    return os.fsencode(path).decode(errors="backslashreplace")


def _lost_reader() -> int:
    # The reader of our output has gone, as with `| head`; nothing more can be said to it.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
    return DONE


def _complain(program: str, message: str, code: int) -> int:
    sys.stdout.flush()
    sys.stderr.write(f"{program}: {printable(' '.join(message.split()))}\n")
    return code


def printable(text: str) -> str:
    """Escape what a terminal would act upon, such as a name with an escape sequence in it."""
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape", "surrogatepass").decode() for sign in text
    )
