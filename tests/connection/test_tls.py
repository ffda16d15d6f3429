"""TLS: verified wherever it is asked for, on a real cluster with a CA of its own."""

import json
import socket
import ssl
import time
from pathlib import Path
from typing import Any

import pymysql
import pytest
import trustme
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from IPython.core.interactiveshell import InteractiveShell

import tidb_magic
from tests.clients import LONG_SELECT, Client
from tests.conftest import base64url
from tests.connection.test_driver import SWITCH, stranger
from tidb_magic.connection.connection import Connection
from tidb_magic.connection.error_map import connect_error
from tidb_magic.connection.settings import Secret, Settings, parse_url
from tidb_magic.connection.tls import context, verifies
from tidb_magic.errors import AuthenticationError, ConnectError, SettingsError, TlsError
from tidb_magic.playground import Playground

PLANTED = "planted-s3cret"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A CA that nobody here uses, with a certificate and its key, and a file that is none of these."""
    folder = tmp_path_factory.mktemp("tls")
    ca = trustme.CA()
    mine = ca.issue_cert("someone@example.com")
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    mine.private_key_pem.write_to_path(str(folder / "key.pem"))
    mine.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    (folder / "text.pem").write_text("no certificate")
    return {name: str(folder / f"{name}.pem") for name in ("ca", "cert", "key", "text", "nothing")}


# -- what is asked for -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "certificate", "name"),
    [
        ({"ssl_ca": "ca"}, True, True),
        ({"ssl_mode": "REQUIRED"}, True, True),
        ({"ssl_mode": "verify_identity"}, True, True),
        ({"ssl_mode": "VERIFY_CA", "ssl_ca": "ca"}, True, False),
        ({"ssl": "true"}, True, True),
        ({"ssl_verify_cert": "true"}, True, True),
        ({"ssl_ca": "ca", "ssl_verify_identity": "false"}, True, False),
        ({"ssl_ca": "ca", "ssl_check_hostname": "0"}, True, False),
        ({"ssl_ca": "ca", "ssl_verify_cert": "false"}, False, False),
        ({"ssl_ca": "ca", "ssl_verify_cert": "false", "ssl_verify_identity": "true"}, True, True),
        ({"ssl_ca": "ca", "ssl_cert": "cert", "ssl_key": "key"}, True, True),
    ],
)
def test_where_tls_is_asked_for_it_is_verified_unless_it_says_otherwise(
    files: dict[str, str], options: dict[str, str], certificate: bool, name: bool
) -> None:
    used = context({key: files.get(value, value) for key, value in options.items()}, "db.example.com")
    assert isinstance(used, ssl.SSLContext)
    assert (used.verify_mode is ssl.CERT_REQUIRED, used.check_hostname) == (certificate, name)
    assert verifies(used) is (certificate and name)


@pytest.mark.parametrize("options", [{}, {"ssl_mode": "PREFERRED"}, {"ssl_verify_cert": "false"}])
def test_where_it_is_not_asked_for_it_is_left_to_the_server(options: dict[str, str]) -> None:
    assert context(options, "db.example.com") is None
    assert not verifies(None)


@pytest.mark.parametrize("options", [{"ssl_mode": "DISABLED"}, {"ssl": "off"}, {"ssl_disabled": "true"}])
def test_it_can_be_switched_off(options: dict[str, str]) -> None:
    assert context(options, "db.example.com") is False
    assert not verifies(False)  # noqa: FBT003


@pytest.mark.parametrize("host", ["tidbcloud.com", "gateway01.eu-central-1.prod.aws.tidbcloud.com"])
def test_tidb_cloud_gets_verified_tls_without_being_asked(host: str) -> None:
    assert verifies(context({}, host))
    assert verifies(parse_url(f"mysql://root@{host}").tls)
    assert context({}, "nottidbcloud.com") is None
    with pytest.raises(SettingsError, match="TiDB Cloud requires it"):
        context({"ssl_mode": "DISABLED"}, host)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ssl_ca": "nothing"}, r"^ssl_ca: there is no file .*nothing\.pem\.$"),
        ({"ssl_ca": "text"}, r"^Cannot use .*text\.pem \(ssl_ca\): no certificate in PEM format\.$"),
        (
            {"ssl_cert": "text", "ssl_key": "key"},
            r"^Cannot use .*\(ssl_cert\) and .*\(ssl_key\): no certificate or key",
        ),
        ({"ssl_key": "key"}, "ssl_key requires ssl_cert"),
        ({"ssl_mode": "SOMETIMES"}, "ssl_mode is one of DISABLED, PREFERRED, REQUIRED, VERIFY_CA, VERIFY_IDENTITY"),
        ({"ssl": "perhaps"}, "ssl is true or false, not 'perhaps'"),
        ({"ssl": "false", "ssl_ca": "ca"}, "TLS is disabled, but also asked for"),
    ],
)
def test_what_cannot_be_is_one_line(files: dict[str, str], options: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError, match=says) as refused:
        context({key: files.get(value, value) for key, value in options.items()}, "db.example.com")
    assert "\n" not in str(refused.value)


# -- on a real cluster -------------------------------------------------------------------------------------------


def test_with_the_right_ca_every_connection_is_verified(with_tls: Playground, running: Any) -> None:
    with tidb_magic.connect(with_tls.url(0)) as cluster, Client(with_tls, 1) as client:
        assert "TLS verified" in repr(cluster)
        assert cluster.processlist().complete
        running(client.start(LONG_SELECT.format("tls")))
        report = cluster.kill([client.id], query=True)  # over a connection to the other instance
        assert list(report["OUTCOME"]) == ["interrupted"]
        tls_by_port = {one.settings.port: one.tls for one in (cluster._pool._main, *cluster._pool._owners)}
        assert tls_by_port == {with_tls.port(0): "TLS verified", with_tls.port(1): "TLS verified"}


def test_the_ca_can_be_given_on_the_line(shell: InteractiveShell, with_tls: Playground) -> None:
    url, _, path = with_tls.url(0).partition("?ssl_ca=")
    cluster = shell.run_line_magic("tidb_connect", f"{url} --ssl-ca {path}")
    assert cluster.state["TLS"] == "TLS verified"


def test_without_a_ca_tls_is_used_and_called_unverified(with_tls: Playground, playground: Playground) -> None:
    with tidb_magic.connect(with_tls.url(0).partition("?")[0]) as cluster:
        assert "TLS not verified" in repr(cluster)
    off = f"{with_tls.url(0).partition('?')[0]}?ssl_mode=DISABLED"
    for url in (off, playground.url(0)):
        with tidb_magic.connect(url) as cluster:
            assert "TLS" not in repr(cluster)
            assert cluster.state["TLS"] == "no TLS"
    with pytest.raises(SettingsError, match="TLS is disabled there, and --ssl-ca requires it"):
        tidb_magic.connect(off, ssl_ca=str(with_tls.folder / "ca.pem"))


def test_where_nothing_is_verified_no_list_of_cas_is_read(
    playground: Playground, with_tls: Playground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(ssl, "create_default_context")  # 20 ms for each connection
    for url in (playground.url(0), with_tls.url(0).partition("?")[0]):
        with tidb_magic.connect(url) as cluster:
            assert cluster.processlist().complete


def test_a_wrong_ca_is_one_line(with_tls: Playground, files: dict[str, str]) -> None:
    url = with_tls.url(0).partition("?")[0]
    with pytest.raises(TlsError, match=r"cannot be verified .*Give its CA with") as refused:
        tidb_magic.connect(url, ssl_ca=files["ca"])
    assert "\n" not in str(refused.value)
    with pytest.raises(TlsError, match="cannot be verified"):  # the system's list does not know it either
        tidb_magic.connect(f"{url}?ssl_mode=REQUIRED")


def test_a_wrong_name_is_refused_unless_that_is_switched_off(
    with_tls: Playground, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *args, **kwargs: resolve("127.0.0.1" if host == "db.example.com" else host, *args, **kwargs),
    )
    url = with_tls.url(0).replace("127.0.0.1", "db.example.com")
    with pytest.raises(TlsError, match=r"cannot be verified .*mismatch"):
        tidb_magic.connect(url)
    with tidb_magic.connect(f"{url}&ssl_verify_identity=false") as cluster:
        assert "TLS not verified" in repr(cluster)


def test_a_server_without_tls_is_refused_where_it_is_asked_for(playground: Playground) -> None:
    with pytest.raises(TlsError, match="does not offer TLS, which is required"):
        tidb_magic.connect(f"{playground.url(0)}?ssl_mode=REQUIRED")


# -- passwords and tokens as clear text --------------------------------------------------------------------------


@pytest.mark.parametrize("plugin", [b"mysql_clear_password", b"tidb_auth_token", b"dialog"])
def test_without_tls_nothing_is_handed_over_as_clearbase64url(plugin: bytes) -> None:
    heard: list[bytes] = []
    port = stranger(plugin.decode(), SWITCH.replace(b"%s", plugin), heard)
    with pytest.raises(AuthenticationError, match="sends the password as clear text: require TLS"):
        Connection(Settings("127.0.0.1", port, "joe", Secret(PLANTED)), within=5)
    assert PLANTED.encode() not in b"".join(heard)


def test_a_token_goes_over_verified_tls_only(with_tls: Playground, token_key: rsa.RSAPrivateKey) -> None:
    claims = {"sub": "ann", "email": "ann@example.com", "iss": "us", "iat": int(time.time()), "exp": time.time() + 600}
    parts = [base64url(json.dumps(part).encode()) for part in ({"alg": "RS256", "kid": "one", "typ": "JWT"}, claims)]
    signed = token_key.sign(".".join(parts).encode(), padding.PKCS1v15(), hashes.SHA256())
    token = ".".join([*parts, base64url(signed)])
    with Client(with_tls) as root:
        root.query(
            "CREATE USER ann IDENTIFIED WITH 'tidb_auth_token' REQUIRE TOKEN_ISSUER 'us'"
            """ ATTRIBUTE '{"email": "ann@example.com"}'"""
        )
    url = with_tls.url(0).replace("root", "ann")
    with tidb_magic.connect(url, password=token) as cluster:
        assert list(cluster.processlist(idle=True)["USER"]) == ["ann"]
    with pytest.raises(AuthenticationError, match="clear text: require TLS"):
        tidb_magic.connect(url.partition("?")[0], password=token)
    with pytest.raises(AuthenticationError, match="refused the user or the password"):
        tidb_magic.connect(url, password=token[:-20])


# -- the table of errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        ((1045, "Access denied for user 'joe'@'::1'"), AuthenticationError, "refused the user or the password (Access"),
        ((1044, "Access denied for user"), AuthenticationError, "denies this user access to the database (Access"),
        ((1049, "Unknown database 'x'"), ConnectError, "The database does not exist at joe@db:4000 (Unknown database"),
        ((1040, "Too many connections"), ConnectError, "accepts no more connections (Too many"),
        ((2026, "SSL is required"), TlsError, "does not offer TLS, which is required"),
        ((3159, "Connections using insecure transport are prohibited"), TlsError, "requires TLS (Connections using"),
        ((2059, "Authentication plugin 'x' not configured"), AuthenticationError, "Not logged in to joe@db:4000"),
        ((2003, "Can't connect (refused)"), ConnectError, "Cannot reach joe@db:4000 (Can't connect (refused))."),
    ],
)
def test_every_error_of_a_login_is_a_line_of_its_own(
    error: tuple[int, str], kind: type[ConnectError], says: str
) -> None:
    made = connect_error(Settings("db", user="joe"), pymysql.OperationalError(*error))
    assert type(made) is kind
    assert says in str(made)
    assert "\n" not in str(made)


def test_what_does_not_speak_mysqls_protocol_is_called_so() -> None:
    error = pymysql.InternalError("Packet sequence number wrong - got 80 expected 0")
    said = "The server at root@db:4000 does not speak MySQL's protocol. Is the port right?"
    assert str(connect_error(Settings("db"), error)) == said


def test_a_key_that_wants_a_password_asks_nobody(tmp_path: Path, files: dict[str, str]) -> None:
    key = serialization.load_pem_private_key(Path(files["key"]).read_bytes(), None)
    locked = tmp_path / "locked.pem"
    encryption = serialization.BestAvailableEncryption(PLANTED.encode())
    locked.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    options = {"ssl_cert": files["cert"], "ssl_key": str(locked)}
    with pytest.raises(SettingsError, match="Cannot use"):
        context(options, "db.example.com")
    assert context({**options, "ssl_key_password": PLANTED}, "db.example.com") is not None
