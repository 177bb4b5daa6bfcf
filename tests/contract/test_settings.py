"""A setting comes from where the order says, and a wrong one is refused in one line that names it."""

from pathlib import Path

import pytest
from pydantic import Field, SecretStr, ValidationError

from contract.errors import ConfigError
from contract.settings import FrozenModel, Settings, load_settings


class Broker(FrozenModel):
    host: str = Field(default="localhost", min_length=1)
    port: int = Field(default=9092, ge=0, le=65_535)
    password: SecretStr | None = Field(default=None, min_length=8)


class Example(Settings):
    folder: Path
    rate: float = Field(default=1.0, gt=0, le=10)
    broker: Broker = Broker()


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    import os

    for name in [name for name in os.environ if name.upper().startswith("FRAMEWATCH_")]:
        monkeypatch.delenv(name)


def yaml_file(tmp_path, text):
    path = tmp_path / "settings.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_flag_outranks_a_variable_outranks_the_file_outranks_the_fallback_outranks_the_default(tmp_path, monkeypatch):
    def rate(*, flag=None, variable=None, text="folder: x\n", fallback=None):
        monkeypatch.delenv("FRAMEWATCH_RATE", raising=False)
        if variable is not None:
            monkeypatch.setenv("FRAMEWATCH_RATE", variable)
        return load_settings(
            Example, file=yaml_file(tmp_path, text), flags={"rate": flag}, environment=True, fallback=fallback
        ).rate

    in_file = "folder: x\nrate: 3\n"
    assert rate(flag=5.0, variable="4", text=in_file, fallback={"rate": 2}) == 5
    assert rate(variable="4", text=in_file, fallback={"rate": 2}) == 4
    assert rate(text=in_file, fallback={"rate": 2}) == 3
    assert rate(fallback={"rate": 2}) == 2
    assert rate() == 1


def test_sources_mix_within_a_group(tmp_path, monkeypatch):
    monkeypatch.setenv("FRAMEWATCH_BROKER__PORT", "7")
    file = yaml_file(tmp_path, "folder: x\nbroker: {host: a, port: 1}\n")
    broker = load_settings(Example, file=file, flags={"broker.password": "12345678"}, environment=True).broker
    assert (broker.host, broker.port) == ("a", 7)
    assert broker.password.get_secret_value() == "12345678"


def test_variables_are_read_only_where_asked(monkeypatch):
    monkeypatch.setenv("FRAMEWATCH_RATE", "4")
    monkeypatch.setenv("FRAMEWATCH_NONSENSE", "4")
    assert load_settings(Example, flags={"folder": "x"}).rate == 1


@pytest.mark.parametrize("name", ["FRAMEWATCH_DATA", "FRAMEWATCH_CACHE"])
def test_variables_of_the_deployment_are_not_settings(monkeypatch, name):
    monkeypatch.setenv(name, "/somewhere")
    assert load_settings(Example, flags={"folder": "x"}, environment=True).folder == Path("x")


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_an_empty_file_is_no_settings(tmp_path, text):
    assert load_settings(Example, file=yaml_file(tmp_path, text), flags={"folder": "x"}).rate == 1


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("rat: 2", "rat: is not known"),
        ("broker: {prt: 2}", r"broker\.prt: is not known"),
        ("rate: fast", "rate: .*found 'fast'"),
        ("rate: .nan", "rate: .*finite"),
        ("rate: .inf", "rate: .*finite"),
        ("rate: 0", "rate: .*greater than 0"),
        ("rate: 11", "rate: .*less than or equal to 10"),
        ("broker: 3", "broker: "),
        ("broker: {port: 65536}", r"broker\.port: .*found 65536"),
        ("broker: {host: ''}", r"broker\.host: "),
        ("rate: 0\nbroker: {port: -1}", "and 1 more"),
        ("- rate", "top level"),
        ("3: 4", "top level"),
        ("just text", "top level"),
        ("a: [1, 2\nb: }", "not YAML"),
        ("a: !!python/object/apply:os.mkdir [code-ran]", "not YAML"),
        ("rate: 2001-99-99", "not YAML"),
        ("rate: !!int x", "not YAML"),
        ("rate: !!bool x", "not YAML"),
        ("rate: !!timestamp x", "not YAML"),
        ("[" * 20_000, "not YAML"),
        ("a: \x00", "not YAML"),
        (b"folder: \xff\xfe\xfd", "not UTF-8"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line_that_names_file_and_field(tmp_path, monkeypatch, text, word):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=word) as caught:
        load_settings(Example, file=yaml_file(tmp_path, text), flags={"folder": "x"})
    assert "settings.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "code-ran").exists()


def test_what_is_required_is_named():
    with pytest.raises(ConfigError, match="folder: is required"):
        load_settings(Example)


@pytest.mark.parametrize("there", [True, False])
def test_a_file_that_cannot_be_read_is_named(tmp_path, there):
    path = tmp_path / "settings"
    if there:
        path.mkdir()
    with pytest.raises(ConfigError, match="settings cannot be read"):
        load_settings(Example, file=path)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("FRAMEWATCH_RAT", "FRAMEWATCH_RAT names no setting"),
        ("framewatch_rat", "FRAMEWATCH_RAT names no setting"),
        ("FRAMEWATCH_", "names no setting"),
        ("FRAMEWATCH_BROKER__HOSTS", "FRAMEWATCH_BROKER__HOSTS names no setting"),
        ("FRAMEWATCH_BROKER__HOST__X", "names no setting"),
        ("FRAMEWATCH_BROKER", "names a group"),
        ("FRAMEWATCH_RATE", "rate: .*found 'abc'"),
    ],
)
def test_a_wrong_variable_is_named(monkeypatch, name, word):
    monkeypatch.setenv(name, "abc")
    with pytest.raises(ConfigError, match=word):
        load_settings(Example, flags={"folder": "x"}, environment=True)


def test_a_secret_is_never_repeated(tmp_path, monkeypatch):
    monkeypatch.setenv("FRAMEWATCH_BROKER__PASSWORD", "hunter2")
    with pytest.raises(ConfigError, match=r"broker\.password") as caught:
        load_settings(Example, flags={"folder": "x"}, environment=True)
    assert "hunter2" not in str(caught.value)
    monkeypatch.setenv("FRAMEWATCH_BROKER__PASSWORD", "hunter2hunter2")
    assert "hunter2" not in repr(load_settings(Example, flags={"folder": "x"}, environment=True))


SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    "text",
    [
        f"rate: 1\nbroker: {{password: {SECRET}\nrate: }}",
        f"rate: 1\n password: {SECRET}: x",
        f"password: *{SECRET}",
        f"password: !{SECRET}",
        f"password: !{SECRET}'s",
        f"password: !{SECRET}!x y",
        f"password: &{SECRET} &{SECRET}x y",
        f"password: '{SECRET}",
        f'password: "{SECRET}\\q"',
        f"password: %{SECRET}",
        f"password: @{SECRET}",
        f"password: !!int {SECRET}",
        f"password: !!float {SECRET}",
        f"password: !!bool {SECRET}",
        f"password: !!binary {SECRET}\u00e9",
        f"password: {SECRET}\x00",
        f"{SECRET}: [",
        f"{SECRET}",
        f"[{SECRET}]: ]",
        f"? [{SECRET}, {{}}]\n: 1",
    ],
)
def test_a_file_that_is_not_yaml_is_not_repeated(tmp_path, text):
    with pytest.raises(ConfigError) as caught:
        load_settings(Example, file=yaml_file(tmp_path, text), flags={"folder": "x"})
    assert SECRET not in str(caught.value)
    assert "settings.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rate: 1\n  host: a: b", "line 2, column 7: mapping values are not allowed here"),
        ("a: [1, 2\nb: }", "line 2, column 2: expected ',' or ']', but got ':'"),
        ("a: [1", "line 1, column 6: expected ',' or ']', but got '<stream end>'"),
        ("a: 1\n\tc: 1", r"line 2, column 1: found character '\t' that cannot start any token"),
    ],
)
def test_a_file_that_is_not_yaml_is_told_its_line(tmp_path, text, said):
    with pytest.raises(ConfigError) as caught:
        load_settings(Example, file=yaml_file(tmp_path, text))
    assert str(caught.value).endswith(said)


def test_what_was_found_is_cut_short():
    with pytest.raises(ConfigError) as caught:
        load_settings(Example, flags={"folder": "x", "rate": "y" * 5000})
    assert len(str(caught.value)) < 300


def test_settings_never_change(tmp_path):
    settings = load_settings(Example, flags={"folder": "x"})
    with pytest.raises(ValidationError):
        settings.rate = 2
    with pytest.raises(ValidationError):
        settings.broker.port = 2
