"""Who built a bundle: signed bundles open, all others are refused where a key is named."""

import shutil
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from contract.errors import BundleError, ConfigError
from contract.manifest import SIGNATURE_NAME, open_bundle, sign_bundle


def write_keys(folder, name, key=None, encryption=None):
    key = key or Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def signed(tiny_bundle, tmp_path):
    """A signed bundle and the public key."""
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle.bundle, bundle)
    private, public = write_keys(tmp_path, "owner")
    assert sign_bundle(bundle, private) == bundle / SIGNATURE_NAME
    return bundle, public


def test_a_signed_bundle_opens_with_the_key_and_without(signed):
    bundle, public = signed
    assert open_bundle(bundle, public) == open_bundle(bundle)


def test_a_bundle_signed_by_nobody_or_somebody_else_is_refused(signed, tmp_path):
    bundle, public = signed
    stranger, _ = write_keys(tmp_path, "stranger")
    sign_bundle(bundle, stranger)
    with pytest.raises(BundleError, match="no signature of its manifest by the key"):
        open_bundle(bundle, public)
    (bundle / SIGNATURE_NAME).unlink()
    with pytest.raises(BundleError, match="is not signed"):
        open_bundle(bundle, public)


@pytest.mark.parametrize("signature", [b"", b"x" * 64, b"x" * 10**6])
def test_what_is_no_signature_is_refused(signed, signature):
    bundle, public = signed
    (bundle / SIGNATURE_NAME).write_bytes(signature)
    with pytest.raises(BundleError, match="no signature"):
        open_bundle(bundle, public)


def test_a_link_is_no_signature(signed, tmp_path):
    bundle, public = signed
    (bundle / SIGNATURE_NAME).rename(tmp_path / "elsewhere")
    (bundle / SIGNATURE_NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="is not signed"):
        open_bundle(bundle, public)


def test_a_signature_is_not_written_through_a_link(signed, tmp_path):
    bundle, public = signed
    other = tmp_path / "other"
    other.write_text("mine")
    (bundle / SIGNATURE_NAME).unlink()
    (bundle / SIGNATURE_NAME).symlink_to(other)
    sign_bundle(bundle, tmp_path / "owner.pem")
    assert other.read_text() == "mine"
    open_bundle(bundle, public)


def test_one_changed_byte_of_the_manifest_is_seen_though_it_is_still_whole(signed):
    bundle, public = signed
    manifest = bundle / "manifest.json"
    manifest.write_bytes(manifest.read_bytes() + b"\n")
    open_bundle(bundle)
    with pytest.raises(BundleError, match="no signature"):
        open_bundle(bundle, public)


def test_openssl_makes_the_same_signature(signed, tmp_path):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not on this machine")
    bundle, _ = signed
    command = [
        openssl, "pkeyutl", "-sign", "-rawin", "-inkey", str(tmp_path / "owner.pem"),
        "-in", str(bundle / "manifest.json"), "-out", str(tmp_path / "signature"),
    ]  # fmt: skip
    subprocess.run(command, check=True)
    assert (tmp_path / "signature").read_bytes() == (bundle / SIGNATURE_NAME).read_bytes()


def test_keys_of_another_kind_are_refused(signed, tmp_path):
    bundle, _ = signed
    private, public = write_keys(tmp_path, "rsa", rsa.generate_private_key(65537, 2048))
    with pytest.raises(ConfigError, match="expected Ed25519"):
        sign_bundle(bundle, private)
    with pytest.raises(ConfigError, match="expected Ed25519"):
        open_bundle(bundle, public)
    locked, _ = write_keys(tmp_path, "locked", encryption=BestAvailableEncryption(b"secret"))
    for key in (locked, public, bundle / "manifest.json"):
        with pytest.raises(ConfigError, match="without a passphrase"):
            sign_bundle(bundle, key)
    for key in (private, bundle / "manifest.json"):
        with pytest.raises(ConfigError, match="no public key"):
            open_bundle(bundle, key)
    with pytest.raises(ConfigError, match="cannot be read"):
        open_bundle(bundle, tmp_path / "none")


def test_a_damaged_bundle_is_not_signed(signed, tmp_path):
    bundle, _ = signed
    (bundle / "decoder.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match=r"decoder\.onnx"):
        sign_bundle(bundle, tmp_path / "owner.pem")
