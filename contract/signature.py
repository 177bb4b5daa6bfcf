"""A bundle's signature: Ed25519 over its manifest, which names every other file by its SHA-256.

So it says who built the bundle, where digests alone say that it is whole. The signature is 64 bytes beside the
manifest; openssl makes and checks the same one (`openssl pkeyutl -sign -rawin`).
"""

from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from contract.errors import BundleError, ConfigError

_MAX_KEY_BYTES: Final = 64 * 2**10


def sign(data: bytes, key: Path) -> bytes:
    """Sign bytes.

    Args:
        data: The manifest's.
        key: File of a private Ed25519 key in PEM, without a passphrase.

    Raises:
        ConfigError: The file cannot be read, or holds no such key.
    """
    try:
        private = load_pem_private_key(_read(key), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"{key} holds no private key in PEM without a passphrase; make one with: "
            "openssl genpkey -algorithm ed25519 -out KEY"
        ) from error
    if not isinstance(private, Ed25519PrivateKey):
        raise ConfigError(f"{key} is a key of another kind; expected Ed25519")
    return private.sign(data)


def require_signature(data: bytes, signature: Path, key: Path) -> None:
    """Check who signed bytes.

    Args:
        data: The manifest's.
        signature: File of the signature.
        key: File of the public Ed25519 key in PEM.

    Raises:
        ConfigError: The key cannot be read, or is none.
        BundleError: There is no signature, or it is not that key's over these bytes.
    """
    try:
        public = load_pem_public_key(_read(key))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{key} holds no public key in PEM") from error
    if not isinstance(public, Ed25519PublicKey):
        raise ConfigError(f"{key} is a key of another kind; expected Ed25519")
    if signature.is_symlink() or not signature.is_file():
        raise BundleError(f"bundle {signature.parent} is not signed; sign it with: exporter sign BUNDLE --key KEY")
    with signature.open("rb") as file:
        signed = file.read(_MAX_KEY_BYTES)
    try:
        public.verify(signed, data)
    except InvalidSignature as error:
        raise BundleError(f"bundle file {signature} is no signature of its manifest by the key in {key}") from error


def _read(key: Path) -> bytes:
    try:
        with key.open("rb") as file:
            return file.read(_MAX_KEY_BYTES)
    except OSError as error:
        raise ConfigError(f"key {key} cannot be read: {error.strerror}") from error
