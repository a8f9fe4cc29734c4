"""nginx with TLS in front of a receiver, configured by the example in `examples/production/`."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .program import ROOT
from .wait import until

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
OPENSSL = shutil.which("openssl")
NAME = "traces.example.com"
EXAMPLE = ROOT / "examples" / "production" / "nginx.conf"

_MAIN = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for `NAME` and localhost, and its key."""
    assert OPENSSL
    file, key = folder / "cert.pem", folder / "key.pem"
    command = [OPENSSL, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={NAME}"]
    names = f"subjectAltName=DNS:{NAME},DNS:localhost"
    subprocess.run(
        [*command, "-keyout", str(key), "-out", str(file), "-addext", names], check=True, capture_output=True
    )
    return file, key


@contextmanager
def nginx(folder: Path, receiver_port: int, changes: dict[str, str] | None = None) -> Iterator[int]:
    """Run nginx with the example of the guide, in which `changes` are replaced. Yields its port for TLS."""
    assert NGINX
    file, key = certificate(folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    site = EXAMPLE.read_text(encoding="utf-8")
    replaced = {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "127.0.0.1:8000;": f"127.0.0.1:{receiver_port};",
        "/etc/ssl/traces.example.com.pem": str(file),
        "/etc/ssl/private/traces.example.com.key": str(key),
        **(changes or {}),
    }
    for there, here in replaced.items():
        assert there in site, there
        site = site.replace(there, here)
    (folder / "site.conf").write_text(site, encoding="utf-8")
    (folder / "nginx.conf").write_text(_MAIN.format(folder=folder), encoding="utf-8")
    process = subprocess.Popen(
        [NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf")], stderr=subprocess.PIPE, text=True
    )
    try:
        until(lambda: process.poll() is not None or _listens(port), timeout=60, what="nginx listens")
        assert process.poll() is None, process.communicate()[1]
        yield port
    finally:
        process.terminate()
        process.communicate(timeout=60)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
    except OSError:
        return False
    return True
