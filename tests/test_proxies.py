"""Proxies and certificates as the environment names them: the same for the preflight, `ask` and `self.client`."""

from __future__ import annotations

import contextlib
import datetime as dt
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from domyn_swarm.endpoint.connecting import way_to
from domyn_swarm.endpoint.preflight import check_endpoint
from domyn_swarm.errors import ConfigurationError
from tests.conftest import Command, rows, write
from tests.test_endpoint import answering, serving

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
BOTH = """
from domyn_swarm.jobs import EndpointJob

class Both(EndpointJob):
    input_columns = ("q",)
    output_columns = ("asked", "official")

    async def transform_item(self, q: str) -> tuple[str, str]:
        messages = [{"role": "user", "content": q}]
        asked = await self.ask("chat/completions", {"messages": messages})
        official = await self.client.chat.completions.create(model=self.model, messages=messages)
        return asked.body["choices"][0]["message"]["content"], official.choices[0].message.content
"""
SUBMIT = ("job", "submit", "both.py:Both", "--input", "in.parquet", "--output", "out.parquet", "--retries", "0")
OK = answering(
    lambda: web.json_response({
        "id": "x", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "ok"}}],
    })
)  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    write("in.parquet", {"q": ["one"]})
    Path("both.py").write_text(BOTH)


@dataclass
class Proxy:
    """A forward proxy: where it is, and the heads of the requests that it got."""

    port: int = 0
    heads: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        return [head.partition(" HTTP")[0] for head in self.heads]


@contextlib.contextmanager
def proxy() -> Iterator[Proxy]:
    """It sends what it gets to the host that is named, through a tunnel if it is asked for one."""
    listener = socket.create_server(("127.0.0.1", 0))
    found = Proxy(listener.getsockname()[1])

    def relay(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if data.startswith((b"GET http:", b"POST http:")):
                    found.heads.append(data.partition(b"\r\n\r\n")[0].decode())
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def connect(client: socket.socket) -> None:
        head = client.recv(65536)
        found.heads.append(head.partition(b"\r\n\r\n")[0].decode())
        method, where, _ = head.decode().split(" ", 2)
        place = where.partition("://")[2].partition("/")[0] if method != "CONNECT" else where
        host, _, port = place.rpartition(":")
        server = socket.create_connection((host, int(port)))
        if method == "CONNECT":
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            server.sendall(head)
        threading.Thread(target=relay, args=(server, client), daemon=True).start()
        relay(client, server)

    def accept() -> None:
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                threading.Thread(target=connect, args=(listener.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def test_requests_go_through_the_proxy_that_the_environment_names(command: Command) -> None:
    with serving(OK, ["m"]) as server, proxy() as way:
        there = f"http://user:geheim@127.0.0.1:{way.port}"
        done = command(*SUBMIT, "--endpoint", server.url, env={"HTTP_PROXY": there})
        assert done.returncode == 0, done.stderr
        asked = f"POST {server.url}/chat/completions"
        assert way.lines() == [f"GET {server.url}/models", asked, asked]
        assert all("Proxy-Authorization: Basic dXNlcjpnZWhlaW0=" in head for head in way.heads)
    assert rows("out.parquet") == [{"q": "one", "asked": "ok", "official": "ok"}]
    assert "geheim" not in done.stderr


@pytest.mark.parametrize("exempt", ["127.0.0.1", "127.0.0.0/8", "*"])
def test_no_proxy_exempts_hosts(exempt: str, command: Command) -> None:
    with serving(OK, ["m"]) as server, proxy() as way:
        variables = {"http_proxy": f"http://127.0.0.1:{way.port}", "no_proxy": f"localhost,{exempt}"}
        done = command(*SUBMIT, "--endpoint", server.url, env=variables)
        assert done.returncode == 0, done.stderr
        assert way.heads == []


def test_a_demo_endpoint_needs_no_proxy(command: Command) -> None:
    with proxy() as way:
        done = command(*SUBMIT, "--endpoint", "demo", env={"HTTP_PROXY": f"http://127.0.0.1:{way.port}"})
        assert done.returncode == 0, done.stderr
        assert way.heads == []


def test_a_proxy_of_a_kind_that_cannot_be_used_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    with pytest.raises(ConfigurationError, match="ALL_PROXY: a socks5 proxy cannot be used"):
        way_to("http://host/v1")
    monkeypatch.setenv("NO_PROXY", "host")
    assert way_to("http://host/v1").proxy is None


def test_a_proxy_that_is_not_there_is_named_in_the_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with pytest.raises(ConfigurationError) as refused:
        check_endpoint("http://127.0.0.1:8/v1")
    assert "NO_PROXY" in refused.value.hint


# Certificates.


@contextlib.contextmanager
def secure() -> Iterator[str]:
    """A server whose certificate only `ca.pem` vouches for; yields its URL."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = serialization.Encoding.PEM
    Path("ca.pem").write_bytes(certificate.public_bytes(pem))
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    Path("server.pem").write_bytes(secret + certificate.public_bytes(pem))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain("server.pem")
    with serving(OK, ["m"], tls=context) as server:
        yield server.url


def test_certificates_that_the_environment_names_are_trusted_by_all_requests(command: Command) -> None:
    ca = str(Path("ca.pem").absolute())
    with secure() as url, proxy() as way:
        refused = command(*SUBMIT, "--endpoint", url)
        assert refused.returncode == 2
        assert "SSL_CERT_FILE=" in refused.stderr
        done = command(*SUBMIT, "--endpoint", url, env={"SSL_CERT_FILE": ca})
        assert done.returncode == 0, done.stderr
        done = command(
            *SUBMIT, "--endpoint", url, "--no-resume",
            env={"SSL_CERT_FILE": ca, "HTTPS_PROXY": f"http://u:geheim@127.0.0.1:{way.port}"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        place = url.removeprefix("https://").removesuffix("/v1")
        assert set(way.lines()) == {f"CONNECT {place}"}
        assert len(way.lines()) == 3
        assert all("Proxy-Authorization" in head for head in way.heads)
    assert rows("out.parquet") == [{"q": "one", "asked": "ok", "official": "ok"}]


def test_certificates_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    with pytest.raises(ConfigurationError, match=r"SSL_CERT_FILE: /nowhere/ca.pem does not exist"):
        way_to("https://host/v1")
    Path("text").write_text("no certificate")
    monkeypatch.setenv("SSL_CERT_FILE", "text")
    with pytest.raises(ConfigurationError, match=r"SSL_CERT_FILE: text cannot be read"):
        way_to("https://host/v1")
