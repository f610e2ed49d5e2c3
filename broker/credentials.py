"""Reads what says who we are: the password's file, and the certificates of an `mqtts://` link.

Whatever is wrong with these files is the operator's to mend, and is said before anything is connected.
"""

import ssl
from pathlib import Path

from broker.config import BrokerSettings
from shared.errors import ConfigError

__all__ = ["read_password", "read_tls"]


def read_password(settings: BrokerSettings) -> str | None:
    """Return the password, from the settings or from its file; None: there is none.

    Raises:
        ConfigError: the file cannot be read, or is empty.
    """
    if settings.password is not None:
        return settings.password.get_secret_value()
    if settings.password_file is None:
        return None
    where = "broker.password_file"
    try:
        password = settings.password_file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(_cause(settings.password_file, error), where=where) from error
    if not password:
        raise ConfigError(f"{settings.password_file} is empty", where=where)
    return password


def read_tls(settings: BrokerSettings) -> ssl.SSLContext | None:
    """Return how to encrypt, with the broker's certificate and name verified; None for `mqtt://`.

    Raises:
        ConfigError: a certificate or key of ours cannot be read.
    """
    if not settings.is_tls:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(_cause(settings.ca_file, error), where="broker.ca_file") from error
    context.sslsocket_class = _ClosedWhenRefused
    if settings.cert_file is not None:
        try:
            # An encrypted key would ask for its passphrase on the terminal, where nobody may sit.
            context.load_cert_chain(settings.cert_file, settings.key_file, password=lambda: b"")
        except OSError as error:
            both = f"{settings.cert_file} and {settings.key_file or 'the key in it'}"
            raise ConfigError(_cause(both, error), where="broker.cert_file, broker.key_file") from error
    return context


class _ClosedWhenRefused(ssl.SSLSocket):
    """A socket that paho, which makes it, would leave open when the handshake fails."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


def _cause(path: Path | str | None, error: Exception) -> str:
    return f"{path} cannot be used: {getattr(error, 'strerror', None) or error}"
