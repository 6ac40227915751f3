"""nginx as the front proxy: it logs people in, or asks for their certificates, and tells the app behind it who they are."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Final, Literal

from llm_authmw.testing.servers import HOST, RunningServer, _free_port
from tests.peers.certificates import Certificates
from tests.peers.needs import need, program

LIMIT: Final = 10.0
"""Seconds until it must answer. It takes less than a tenth."""

LOGIN_HEADERS: Final[Mapping[str, str]] = {
    "X-Forwarded-User": "$login_user",
    "X-Forwarded-Email": "$login_email",
    "X-Forwarded-Groups": "$login_groups",
}
"""Who the login service says it is. nginx sends no header whose value is empty, and none that the client sent under these names."""

CERTIFICATE_HEADERS: Final[Mapping[str, str]] = {
    "X-SSL-Client-Verify": "$ssl_client_verify",
    "X-SSL-Client-Cert": "$ssl_client_escaped_cert",
    "X-SSL-Client-S-DN": "$ssl_client_s_dn",
    "X-SSL-Client-Fingerprint": "$ssl_client_fingerprint",
    "Client-Cert": "$client_cert",
}
"""The certificate that the client has shown: SUCCESS, NONE or FAILED:why; PEM with escapes, as URLs have them; its subject; its
SHA-1; and RFC 9440's form. Without one, only the first is sent."""

_PEM_LINES: Final = 60
"""Lines of base64 that a certificate may have here, 64 characters each."""


class FrontProxy:
    """An nginx that runs.

    Attributes:
        url: Where it is: `http://127.0.0.1:PORT`, or `https://` with certificates.
        port: The port in it.
        server: The process: `.output` is what it has written, which is nothing unless something went wrong.
    """

    def __init__(self, server: RunningServer, scheme: str) -> None:
        self.port: Final = server.port
        self.url: Final = f"{scheme}://{HOST}:{server.port}"
        self.server: Final = server


@contextlib.contextmanager
def nginx(
    upstream: str,
    *,
    sets: Mapping[str, str] | None = None,
    login: str | None = None,
    certificates: Certificates | None = None,
    client_certificates: Literal["off", "optional", "on"] = "off",
) -> Generator[FrontProxy]:
    """Start nginx in front of an app, on a free port of 127.0.0.1, without buffers; end it, by its process id, with the block.

    Proves what reaches an app from the front proxy that most people have: which headers it sets, joins, drops and passes on,
    and in which form it hands over certificates. It drops headers with underscores, and it passes on every header that it is not
    told to set, a client's own `X-Forwarded-User` among them.

    Skips the test if nginx is missing, and fails it in CI.

    Args:
        upstream: The app: `http://127.0.0.1:PORT`, or `http://unix:/PATH:` for a socket.
        sets: Headers for the app, which replace the client's own, by name; values may hold nginx's variables. See
            `LOGIN_HEADERS` and `CERTIFICATE_HEADERS`; the proof of a shared secret is one more.
        login: URL of the login service that each request is shown to (`auth_request`), such as `tests/peers/apps/login.py`.
        certificates: Serve TLS, with these.
        client_certificates: Whether to ask clients for a certificate of the authority: `on` answers 400 to those without.
    """
    need(programs=["nginx"])
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="authmw-nginx-") as scratch:
        folder = Path(scratch)
        listens = [f"listen {HOST}:{port};"] if certificates is None else _tls(folder, port, certificates, client_certificates)
        asks, knows = ("", "") if login is None else _login(login)
        location = [knows, *(f'proxy_set_header {name} "{value}";' for name, value in (sets or {}).items()), f"proxy_pass {upstream};"]
        (folder / "nginx.conf").write_text(_configuration(folder, server=[*listens, asks], location=location), encoding="utf-8")
        running = _start(folder, port)
        try:
            # A server that expects TLS says so to a plain request, so this needs none.
            running.wait_until_ready("/_ready", LIMIT)
            yield FrontProxy(running, "http" if certificates is None else "https")
        finally:
            running.stop()


def _start(folder: Path, port: int) -> RunningServer:
    log = folder / "output"
    command = [program("nginx") or "nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    return RunningServer(process, port, log)


def _configuration(folder: Path, *, server: list[str], location: list[str]) -> str:
    # As root, nginx would give its workers to somebody who may not read this folder, or the app's socket.
    user = "user root;" if os.geteuid() == 0 else ""
    scratch = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    return f"""
{user}
daemon off;
worker_processes 1;
pid {folder}/pid;
events {{ worker_connections 128; }}
http {{
    access_log off;
    {scratch}
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    {_certificate_map()}
    server {{
        {" ".join(server)}
        location = /_ready {{ return 204; }}
        location / {{
            {" ".join(location)}
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_buffering off;
            proxy_request_buffering off;
        }}
    }}
}}
"""


def _tls(folder: Path, port: int, certificates: Certificates, verify: str) -> list[str]:
    certificates.authority.cert_pem.write_to_path(folder / "authority.pem")
    certificates.server.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    return [
        f"listen {HOST}:{port} ssl;",
        f"ssl_certificate {folder}/server.pem; ssl_certificate_key {folder}/server.pem;",
        f"ssl_client_certificate {folder}/authority.pem; ssl_verify_client {verify};",
    ]


def _login(service: str) -> tuple[str, str]:
    """Return the place that asks the login service, and what a guarded location takes from its answer."""
    takes = " ".join(f"auth_request_set $login_{name} $upstream_http_x_auth_request_{name};" for name in ("user", "email", "groups"))
    asks = f"proxy_pass {service}; proxy_pass_request_body off; proxy_set_header Content-Length '';"
    return f"location = /_login {{ internal; {asks} }}", f"auth_request /_login; {takes}"


def _certificate_map() -> str:
    """Derive RFC 9440's form, base64 of the DER between colons, from the only one that nginx has: PEM, whose lines are to be joined."""
    lines = "".join(rf"(?:(?<line{number}>[A-Za-z0-9+/=]+)\n)?" for number in range(_PEM_LINES))
    joined = "".join(f"${{line{number}}}" for number in range(_PEM_LINES))
    return f'map $ssl_client_raw_cert $client_cert {{ default ""; "~^-----BEGIN CERTIFICATE-----\\n{lines}-----END" ":{joined}:"; }}'
