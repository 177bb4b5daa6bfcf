"""Every command ends with the exit code of the design and says at most one line of its own."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import contract.errors
from contract.command_line import run_command_line
from contract.errors import (
    BundleError,
    CheckpointError,
    ConfigError,
    FramewatchError,
    LabelError,
    UnknownModelError,
    UnsupportedBudgetError,
)


def app_that(does):
    app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)

    @app.callback()
    def _many():
        pass

    @app.command()
    def go(number: int = 0):
        return does()

    return app


def ended(does, *arguments):
    return run_command_line(app_that(does), "program", list(arguments or ("go",)))


def raising(error):
    def does():
        raise error

    return does


MISTAKES = {ConfigError, LabelError, UnknownModelError, UnsupportedBudgetError, BundleError, CheckpointError}


def every_error():
    found, waiting = [], [FramewatchError]
    while waiting:
        waiting += waiting[0].__subclasses__()
        found.append(waiting.pop(0))
    return [kind for kind in found if kind.__module__ == contract.errors.__name__]


@pytest.mark.parametrize("kind", every_error())
def test_a_mistake_ends_with_2_and_a_failure_with_1_and_both_with_one_line(kind, capsys):
    error = kind("reason", "it broke\n  twice") if kind.__name__ == "FrameError" else kind("it broke\n  twice")
    assert ended(raising(error)) == (2 if kind in MISTAKES else 1)
    assert capsys.readouterr() == ("", "program: it broke twice\n")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("stay",), "stay"),
        (("go", "--speed", "3"), "--speed"),
        (("go", "--number", "many"), "--number"),
        (("go", "extra"), "extra"),
        (("go", "--number"), "--number"),
    ],
)
def test_wrong_usage_ends_with_2_and_one_line_that_names_it(arguments, word, capsys):
    assert ended(lambda: None, *arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("program: ")
    assert word in said
    assert said.endswith("; see program --help\n")
    assert said.count("\n") == 1


def test_no_command_shows_the_help_and_is_a_mistake(capsys):
    assert run_command_line(app_that(lambda: None), "program", []) == 2
    out, err = capsys.readouterr()
    assert "Usage: program" in out + err


def test_help_is_no_mistake(capsys):
    assert ended(lambda: None, "go", "--help") == 0
    assert "--number" in capsys.readouterr().out


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1), (2, 2), ("text", 0)])
def test_a_number_that_a_command_returns_is_its_exit_code(returned, code):
    assert ended(lambda: returned) == code


@pytest.mark.parametrize("error", [KeyboardInterrupt(), typer.Abort()])
def test_ctrl_c_ends_with_130(error, capsys):
    assert ended(raising(error)) == 130
    # The terminal shows ^C on a line that the first newline ends.
    assert capsys.readouterr().err.lstrip("\n") == "program: interrupted\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG])
def test_what_cannot_be_written_is_a_failure_that_names_the_file(number, capsys):
    assert ended(raising(OSError(number, "why not", "/full/out.csv"))) == 1
    assert capsys.readouterr().err == "program: cannot write /full/out.csv: why not\n"
    assert ended(raising(OSError(number, "why not"))) == 1
    assert capsys.readouterr().err == "program: cannot write a file: why not\n"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_a_file_that_is_not_ours_is_a_failure_whether_it_is_read_or_written(number, capsys):
    assert ended(raising(OSError(number, "why not", "/root/in.csv"))) == 1
    assert capsys.readouterr().err == "program: cannot use /root/in.csv: why not\n"


MISTAKEN = [errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP]


@pytest.mark.parametrize("number", MISTAKEN)
def test_a_path_that_cannot_be_is_a_mistake_that_names_it(number, capsys):
    assert ended(raising(OSError(number, "why not", "a/b"))) == 2
    assert capsys.readouterr().err == "program: a/b: why not\n"
    assert ended(raising(OSError(number, "why not", b"a\xe9"))) == 2
    assert capsys.readouterr().err == "program: a\\xe9: why not\n"


@pytest.mark.parametrize("number", MISTAKEN)
def test_a_file_error_that_names_no_file_is_a_defect(number):
    with pytest.raises(OSError, match="why not"):
        ended(raising(OSError(number, "why not")))


@pytest.mark.parametrize("error", [ZeroDivisionError("defect"), KeyError("defect"), OSError(errno.EBADF, "defect")])
def test_a_defect_is_not_hidden(error):
    with pytest.raises(type(error)):
        ended(raising(error))


def test_a_disk_that_is_full_is_said_in_one_line(capsys):
    def write():
        with Path("/dev/full").open("w") as file:
            file.write("x" * 100_000)

    assert ended(write) == 1
    assert capsys.readouterr().err == "program: cannot write a file: No space left on device\n"


def test_a_reader_that_goes_away_is_no_failure():
    code = (
        "import sys, typer\n"
        "from contract.command_line import run_command_line\n"
        "def go():\n"
        "    for number in range(200_000): print(number)\n"
        "app = typer.Typer(); app.command()(go)\n"
        "sys.exit(run_command_line(app, 'program', []))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"0\n"
        child.stdout.close()
        assert child.stderr.read() == b""
    assert child.returncode == 0
