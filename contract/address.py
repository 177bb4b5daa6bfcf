"""What of an address may be shown: credentials stand in those of cameras, and in no name, message or record."""

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

_URL: Final = re.compile(r"(\s*[A-Za-z][A-Za-z0-9+.-]*://)(.*)", re.DOTALL)
# Some cameras take their login as part of the path.
_PATH_LOGIN: Final = re.compile(r"\b(user(?:name)?|usr|pass(?:word|wd)?|pwd|token|auth|key)=[^&/;?#]*", re.IGNORECASE)
_RANGES: Final = re.compile(r"#[0-9:, ]*\Z")
_SHOWN_KEYS: Final = frozenset({"camera", "from", "to", "allow_plaintext"})
_HIDDEN: Final = "***"


def without_credentials(source: str) -> str:
    """Hide what may be secret in an address: who logs in, and the values of its query.

    A password in which ``@ / ? #`` stand unescaped is hidden too, at the price of hiding a host now and then. What is
    no address, such as a path, comes back unchanged, and so do frame ranges and the query of ``kafka://``.

    Args:
        source: A source as `contract.source.open_source` takes it.
    """
    url = _URL.fullmatch(source)
    if url is None:
        return source
    scheme, rest = url.groups()
    login, place = _split_login(rest)
    ranges = _RANGES.search(place)
    fragment = ranges[0] if ranges else ""
    place, mark, query = place.removesuffix(fragment).replace("#", "?", 1).partition("?")
    shown = _SHOWN_KEYS if scheme.strip().lower() == "kafka://" else frozenset()
    query = "&".join(_hide_value(part, shown) for part in query.split("&"))
    place = _PATH_LOGIN.sub(rf"\1={_HIDDEN}", place)
    return scheme + (f"{_HIDDEN}@" if login else "") + place + (mark + query if mark else "") + fragment


def name_of_address(address: str) -> str:
    """Name a camera by its host and path alone, in characters that a camera id may have."""
    url = _URL.fullmatch(address)
    place = re.split(r"[?#]", _split_login(url[2])[1], maxsplit=1)[0] if url is not None else address
    place = _PATH_LOGIN.sub("", place)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", place).strip("-")[:128] or "camera"


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, without asking a name server."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_open(address: str) -> bool:
    """Whether what is spoken to an ``http`` address can be read beyond this machine.

    Raises:
        ValueError: It is no address.
    """
    url = urlsplit(address)
    return url.scheme == "http" and not is_loopback(url.hostname or "")


def _split_login(rest: str) -> tuple[str, str]:
    """Split what follows ``scheme://`` into what stands before the host and the rest."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    before_query = rest.partition("?")[0]
    port = authority.rpartition(":")[2]
    if "@" in before_query and ("@" in authority or ":" in authority):
        login, _, place = before_query.rpartition("@")
        return login, place + rest[len(before_query) :]
    if "@" in rest and ":" in authority and not port.isdecimal() and not authority.endswith("]"):
        login, _, place = rest.rpartition("@")
        return login, place
    return "", rest


def _hide_value(part: str, shown: frozenset[str]) -> str:
    key, mark, _ = part.partition("=")
    if key in shown:
        return part
    return key + mark + _HIDDEN if mark else _HIDDEN
