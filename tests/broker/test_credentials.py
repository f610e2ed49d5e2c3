"""What says who we are."""

import ssl
from pathlib import Path

import pytest
from pydantic import SecretStr

from broker.config import BrokerSettings
from broker.credentials import read_password, read_tls
from shared.errors import ConfigError
from tests.broker.certificates import Authority


def test_password_of_a_file_has_no_line_break(tmp_path: Path) -> None:
    """`echo` and editors end a file with one; spaces belong to the password."""
    file = tmp_path / "password"
    file.write_text(" s3 cret \r\n")
    assert read_password(BrokerSettings(username="me", password_file=file)) == " s3 cret "


def test_password_of_the_settings_and_none() -> None:
    """The environment's is taken as it is; whoever sets none has none."""
    assert read_password(BrokerSettings(username="me", password=SecretStr("s3cret\n"))) == "s3cret\n"
    assert read_password(BrokerSettings()) is None


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff"])
def test_unusable_password_file_is_the_operators(tmp_path: Path, content: bytes | None) -> None:
    """Missing, empty or no text: the error names the key and the file."""
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"broker\.password_file") as caught:
        read_password(BrokerSettings(username="me", password_file=file))
    assert str(file) in str(caught.value)


def test_plain_url_has_no_tls() -> None:
    """mqtt:// is not encrypted."""
    assert read_tls(BrokerSettings()) is None


def test_tls_verifies_certificate_and_name() -> None:
    """There is no setting that turns it off."""
    context = read_tls(BrokerSettings(url="mqtts://host"))
    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_unusable_certificates_are_the_operators(tmp_path: Path, content: str | None) -> None:
    """The error names the key and the file."""
    file = tmp_path / "x.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=r"broker\.ca_file") as caught:
        read_tls(BrokerSettings(url="mqtts://host", ca_file=file))
    assert str(file) in str(caught.value)
    with pytest.raises(ConfigError, match=r"broker\.cert_file"):
        read_tls(BrokerSettings(url="mqtts://host", cert_file=file))


def test_key_of_another_certificate_is_the_operators(tmp_path: Path) -> None:
    """Certificate and key have to belong together."""
    authority = Authority.made_in(tmp_path)
    certificate, _ = authority.sign("one")
    _, key = authority.sign("other")
    with pytest.raises(ConfigError, match="key"):
        read_tls(BrokerSettings(url="mqtts://host", cert_file=certificate, key_file=key))
