"""A server that speaks TLS: the system's own, as none of those that pip brings does. Knows nothing of pytest."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from support.servers import SYSTEM, ServerHandle, ServerMissingError, executable, start_as

if TYPE_CHECKING:
    from pathlib import Path

_CERTIFICATE: Final = ("-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=txstate tests")


@dataclass
class TLSHandle(ServerHandle):
    """A running server with TLS on its port; its certificate is its own authority, and its clients'."""

    @property
    def certificate(self) -> Path:
        return self.directory / "cert.pem"

    @property
    def key(self) -> Path:
        return self.directory / "key.pem"

    @property
    def url(self) -> str:
        """By TCP, with what proves both sides to each other."""
        proof = f"ssl_ca_certs={self.certificate}&ssl_certfile={self.certificate}&ssl_keyfile={self.key}"
        return f"rediss://127.0.0.1:{self.port}/0?{proof}"

    def configuration(self) -> dict[str, object]:
        """TLS instead of plain TCP."""
        make_certificate(self.certificate, self.key)
        return {
            **super().configuration(),
            "port": 0,
            "tls-port": self.port,
            "tls-cert-file": self.certificate,
            "tls-key-file": self.key,
            "tls-ca-cert-file": self.certificate,
            "tls-auth-clients": "yes",
        }


def start_tls() -> TLSHandle:
    """Start one.

    Raises:
        ServerMissingError: the system has no server, it was built without TLS, or there is no openssl.
    """
    if shutil.which("openssl") is None:
        raise ServerMissingError("no openssl to make a certificate with")
    told = subprocess.run(
        [executable(SYSTEM), "--port", "0", "--tls-port", "none"], capture_output=True, check=False, text=True
    )
    if "integer" not in told.stdout + told.stderr:  # else it does not know the option at all
        raise ServerMissingError("the system's server was built without TLS")
    return start_as(TLSHandle, SYSTEM)


def make_certificate(certificate: Path, key: Path) -> None:
    """Make a certificate for 127.0.0.1 that vouches for itself."""
    openssl = shutil.which("openssl")
    assert openssl is not None
    subprocess.run(
        [
            openssl,
            "req",
            *_CERTIFICATE,
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-out",
            certificate,
            "-keyout",
            key,
        ],
        check=True,
        capture_output=True,
    )
