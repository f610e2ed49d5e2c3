"""Certificates for tests, made with the `openssl` program: an authority, and what it signs."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ["Authority"]


@dataclass(frozen=True, slots=True)
class Authority:
    """An authority of its own folder."""

    folder: Path

    @classmethod
    def made_in(cls, folder: Path) -> "Authority":
        """Make one, or skip the test where there is no `openssl`."""
        if shutil.which("openssl") is None:
            pytest.skip("no openssl on this machine")
        folder.mkdir(exist_ok=True)
        authority = cls(folder)
        authority._openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "ca.key")
        authority._openssl("req", "-x509", "-new", "-key", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=ca")
        return authority

    @property
    def certificate(self) -> Path:
        """Its own certificate."""
        return self.folder / "ca.pem"

    def sign(self, name: str, *, address: str | None = None) -> tuple[Path, Path]:
        """Return certificate and key for a name, and for an address if it is a server."""
        self._openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}.key")
        self._openssl("req", "-new", "-key", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (self.folder / f"{name}.ext").write_text(f"subjectAltName=IP:{address}\n" if address else "")
        signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext")
        self._openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signing)
        (self.folder / f"{name}.key").chmod(0o644)  # Mosquitto gives root up before it reads it
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)
