"""How a broker is reached: the table `broker` of every program's settings.

Passwords stand neither in a URL nor in a TOML that is shared: they come from the environment or from a file of their
own. Not here: reading those files (`mqtt.py`) and running a broker (`server/`).
"""

from pathlib import Path
from typing import Literal, Self
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

__all__ = ["BrokerSettings"]

_PORTS = {"mqtt": 1883, "mqtts": 8883}
_PASSWORD_HINT = "set FEDMQ__BROKER__PASSWORD, or name a file of its own as broker.password_file"


class BrokerSettings(BaseModel):
    """Where the broker is, who we are to it, and how we speak."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True)

    url: str = "mqtt://127.0.0.1:1883"
    """mqtt://host:port, or mqtts://user@host:port for TLS; the ports are 1883 and 8883 unless given"""
    username: str | None = Field(default=None, min_length=1)
    """user name, unless it stands in the URL; brokers with our access rules want the device's id here"""
    password: SecretStr | None = None
    """password of that user; to be set as FEDMQ__BROKER__PASSWORD, not in a file that is shared"""
    password_file: Path | None = None
    """file that holds the password and nothing else; a line break at its end does not count"""
    ca_file: Path | None = None
    """certificates (PEM) of whoever may sign the broker's, mqtts only; unset: those of the system"""
    cert_file: Path | None = None
    """our own certificate (PEM), where the broker asks its clients for one; mqtts only"""
    key_file: Path | None = None
    """private key (PEM) of that certificate; unset: it is in cert_file, too"""
    keepalive_s: int = Field(default=60, ge=5, le=3600)
    """seconds of silence after which a dead link is noticed; a packet that needs twice as long to leave is cut off"""
    protocol: Literal[5, 3] = 5
    """MQTT version: 5, with 3.1.1 at a broker that has no other, or 3 for 3.1.1 at once"""
    max_packet_bytes: int | None = Field(default=None, ge=1024, le=268_435_455)
    """largest packet this broker takes, headers included; needed only where it does not say so itself, as with 3.1.1"""

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        example = "write it as mqtt://127.0.0.1:1883 or mqtts://user@host:8883"
        try:
            parts = urlsplit(url)
            has_port = parts.port != 0  # raises on what is no port number
            (parts.hostname or "").encode("idna")  # as the name look-up will do, with a less helpful error
        except ValueError as error:
            raise ValueError(f"must be the URL of a broker; {example}") from error
        if parts.password is not None:
            raise ValueError(f"must not hold a password, which would end up in logs: {_PASSWORD_HINT}")
        if parts.scheme not in _PORTS:
            raise ValueError(f"must begin with mqtt:// or mqtts://; {example}")
        if not parts.hostname or not has_port or parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ValueError(f"must name a host, perhaps a user and a port, and nothing else; {example}")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.username is not None and self._url.username is not None:
            raise ValueError("broker.username: the URL names a user, too; give one of them")
        if self.password is not None and self.password_file is not None:
            raise ValueError("broker.password_file: a password is set, too; give one of them")
        if (self.password is not None or self.password_file is not None) and self.user is None:
            raise ValueError("broker.password: a password needs a user; write mqtt://user@host or set broker.username")
        if not self.is_tls:
            for name in ("ca_file", "cert_file", "key_file"):
                if getattr(self, name) is not None:
                    raise ValueError(f"broker.{name}: is for mqtts://, and the URL begins with mqtt://")
        if self.key_file is not None and self.cert_file is None:
            raise ValueError("broker.key_file: a key needs its certificate, broker.cert_file")
        return self

    @property
    def host(self) -> str:
        """Name or address of the broker."""
        return self._url.hostname or ""

    @property
    def port(self) -> int:
        """TCP port of the broker."""
        return self._url.port or _PORTS[self._url.scheme]

    @property
    def user(self) -> str | None:
        """Who we are to the broker; None: nobody in particular."""
        return self.username if self._url.username is None else unquote(self._url.username)

    @property
    def is_tls(self) -> bool:
        """Whether the link is encrypted."""
        return self._url.scheme == "mqtts"

    @property
    def _url(self) -> SplitResult:
        return urlsplit(self.url)
