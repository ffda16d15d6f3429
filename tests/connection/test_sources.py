"""Where the settings of a connection come from: each source connects, and none shows its password."""

import configparser
import json
import ssl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keyring
import keyring.backend
import pymysql
import pytest
import sqlalchemy
from IPython.core.interactiveshell import InteractiveShell
from sqlalchemy.ext.asyncio import AsyncEngine

import tidb_magic
from tests.clients import Client
from tests.tracebacks import with_locals
from tidb_magic.connection.settings import Settings
from tidb_magic.connection.sources import find
from tidb_magic.connection.tls import verifies
from tidb_magic.errors import AuthenticationError, NotConnectedError, SettingsError, TidbMagicError
from tidb_magic.playground import Playground

PLANTED = "planted-s3cret"
VARIABLES = ["TIDB_MAGIC_URL", "DATABASE_URL", "CA_PATH"]
VARIABLES += [f"TIDB_{name}" for name in ("HOST", "PORT", "USER", "PASSWORD", "DB_NAME")]


class Keyring(keyring.backend.KeyringBackend):
    """One in memory."""

    priority = 1

    def __init__(self) -> None:
        self.passwords: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.passwords.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.passwords[service, username] = password


@pytest.fixture(autouse=True)
def home(tmp_path: Path, session_shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, and a folder below it, without anything set up; jupysql is not loaded."""
    monkeypatch.delitem(session_shell.magics_manager.registry, "SqlMagic", raising=False)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return tmp_path


@pytest.fixture(autouse=True)
def ring(home: Path) -> Iterator[Keyring]:
    before, made = keyring.get_keyring(), Keyring()
    keyring.set_keyring(made)
    yield made
    keyring.set_keyring(before)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a person was asked; nobody answers."""
    prompts: list[str] = []
    monkeypatch.setattr("tidb_magic.connection.prompt._can_prompt", lambda: prompts.append("asked"))
    return prompts


def settings(*args: Any, **kwargs: Any) -> Settings:
    found = find(*args, **kwargs)
    assert isinstance(found, Settings), found
    return found


def refused(*args: Any, **kwargs: Any) -> str:
    """Return what is wrong, which is one line without the password."""
    found = find(*args, **kwargs)
    assert isinstance(found, TidbMagicError), found
    assert "\n" not in str(found)
    with pytest.raises(TidbMagicError) as raised:
        tidb_magic.connect(*args, **kwargs)
    assert PLANTED not in with_locals(raised.value)
    return str(found)


def password(found: Settings) -> str | None:
    return None if found.password is None else found.password.reveal().decode()


# -- each source connects ----------------------------------------------------------------------------------------

URL = "mysql+pymysql://joe:planted-s3cret@127.0.0.1:{port}/test"


def _section(home: Path, port: int) -> None:
    file = configparser.ConfigParser()
    file["prod"] = {
        "drivername": "mysql+pymysql",
        "username": "joe",
        "password": PLANTED,
        "host": "127.0.0.1",
        "port": str(port),
        "database": "test",
    }
    (home / ".jupysql").mkdir()
    with (home / ".jupysql" / "connections.ini").open("w") as out:
        file.write(out)


def _my_cnf(file: Path, port: int, group: str) -> None:
    file.write_text(
        f"# ours\n[client]\nhost = 127.0.0.1\nport={port}\nskip-ssl\n[{group}]\nuser=joe\npassword='{PLANTED}'\n"
    )


def _dot_env(file: Path, port: int) -> None:
    file.write_text(
        f"TIDB_HOST='127.0.0.1'\nTIDB_PORT='{port}'\nTIDB_USER='joe'\nTIDB_PASSWORD='{PLANTED}'\n"
        "TIDB_DB_NAME='test'\nCA_PATH=''\n"
    )


Prepare = Callable[[Path, int, pytest.MonkeyPatch, Keyring, dict[str, Any]], str]


def _url(home: Path, port: int, env: pytest.MonkeyPatch, ring: Keyring, names: dict[str, Any]) -> str:
    ring.set_password("tidb_magic", f"joe@127.0.0.1:{port}", PLANTED)
    return f"mysql://joe@127.0.0.1:{port}/test"


def _variable(home: Path, port: int, env: pytest.MonkeyPatch, ring: Keyring, names: dict[str, Any]) -> str:
    names["there"] = URL.format(port=port)
    return "there"


def _engine(home: Path, port: int, env: pytest.MonkeyPatch, ring: Keyring, names: dict[str, Any]) -> str:
    names["engine"] = sqlalchemy.create_engine(URL.format(port=port) + "?charset=utf8mb4")
    return "engine"


def _engine_arguments(home: Path, port: int, env: pytest.MonkeyPatch, ring: Keyring, names: dict[str, Any]) -> str:
    arguments = {"host": "127.0.0.1", "port": port, "user": "joe", "password": PLANTED}
    names["engine"] = sqlalchemy.create_engine("mysql+pymysql://", connect_args=arguments)
    return "engine"


def _sqlalchemy_url(home: Path, port: int, env: pytest.MonkeyPatch, ring: Keyring, names: dict[str, Any]) -> str:
    names["there"] = sqlalchemy.make_url(URL.format(port=port))
    return "there"


def _sqlalchemy(home: Path, port: int, env: pytest.MonkeyPatch, ring: Keyring, names: dict[str, Any]) -> str:
    names["connection"] = sqlalchemy.create_engine(URL.format(port=port)).connect()
    return "connection"


def _pymysql(home: Path, port: int, env: pytest.MonkeyPatch, ring: Keyring, names: dict[str, Any]) -> str:
    names["connection"] = pymysql.connect(host="127.0.0.1", port=port, user="joe", password=PLANTED, database="test")
    return "connection"


def _python(home: Path, port: int, env: pytest.MonkeyPatch, ring: Keyring, names: dict[str, Any]) -> str:
    names["cluster"] = tidb_magic.connect(f"mysql://joe@127.0.0.1:{port}", password=PLANTED)
    return "cluster"


def _sql(home: Path, port: int, env: pytest.MonkeyPatch, ring: Keyring, names: dict[str, Any]) -> str:
    from sql.connection import ConnectionManager

    env.setattr(ConnectionManager, "connections", {})
    env.setattr(ConnectionManager, "current", None)
    ConnectionManager.set(sqlalchemy.create_engine(URL.format(port=port)), displaycon=False)
    names["engine"] = ConnectionManager.current._connection.engine
    return "sql"


def _in_section(home: Path, port: int, env: pytest.MonkeyPatch, ring: Keyring, names: dict[str, Any]) -> str:
    _section(home, port)
    return "--section prod"


def _in_defaults(home: Path, port: int, env: pytest.MonkeyPatch, ring: Keyring, names: dict[str, Any]) -> str:
    _my_cnf(home / "my.cnf", port, "tidb_magic")
    return f"--defaults-file {home / 'my.cnf'}"


def _in_group(home: Path, port: int, env: pytest.MonkeyPatch, ring: Keyring, names: dict[str, Any]) -> str:
    _my_cnf(home / "my.cnf", port, "prod")
    return "--defaults-file ~/my.cnf --section prod"


def _in_my_cnf(home: Path, port: int, env: pytest.MonkeyPatch, ring: Keyring, names: dict[str, Any]) -> str:
    _my_cnf(home / ".my.cnf", port, "tidb_magic")
    return ""


def _magic_url(home: Path, port: int, env: pytest.MonkeyPatch, ring: Keyring, names: dict[str, Any]) -> str:
    env.setenv("TIDB_MAGIC_URL", URL.format(port=port))
    return ""


def _database_url(home: Path, port: int, env: pytest.MonkeyPatch, ring: Keyring, names: dict[str, Any]) -> str:
    env.setenv("DATABASE_URL", URL.format(port=port))
    return ""


def _variables(home: Path, port: int, env: pytest.MonkeyPatch, ring: Keyring, names: dict[str, Any]) -> str:
    for name, value in (("HOST", "127.0.0.1"), ("PORT", str(port)), ("USER", "joe"), ("PASSWORD", PLANTED)):
        env.setenv(f"TIDB_{name}", value)
    return ""


def _in_dot_env(home: Path, port: int, env: pytest.MonkeyPatch, ring: Keyring, names: dict[str, Any]) -> str:
    _dot_env(home / ".env", port)  # one folder above
    return ""


SOURCES: list[tuple[Prepare, str]] = [
    (_url, ""),
    (_variable, "the variable there"),
    (_engine, "an engine of SQLAlchemy"),
    (_engine_arguments, "an engine of SQLAlchemy"),
    (_sqlalchemy_url, "a URL of SQLAlchemy"),
    (_sqlalchemy, "an engine of SQLAlchemy"),
    (_pymysql, "a connection of PyMySQL"),
    (_python, ""),
    (_sql, "the connection of jupysql"),
    (_in_section, "[prod] of ~/.jupysql/connections.ini"),
    (_in_defaults, "~/my.cnf"),
    (_in_group, "~/my.cnf"),
    (_in_my_cnf, "~/.my.cnf"),
    (_magic_url, "TIDB_MAGIC_URL of the environment"),
    (_database_url, "DATABASE_URL of the environment"),
    (_variables, "TIDB_HOST of the environment"),
    (_in_dot_env, "TIDB_HOST of ~/.env"),
]


def test_bytes_of_the_environment_that_are_no_text_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
    home: Path,
) -> None:
    monkeypatch.setenv("TIDB_HOST", "db")
    monkeypatch.setenv("TIDB_PASSWORD", f"{PLANTED}\udcff")
    refused = find()
    assert isinstance(refused, SettingsError)
    assert "it contains half of a character" in str(refused)
    assert PLANTED not in with_locals(refused)


@pytest.mark.parametrize(("prepare", "source"), SOURCES, ids=[one.__name__.strip("_") for one, _ in SOURCES])
def test_each_source_connects_and_is_named(
    prepare: Prepare,
    source: str,
    shell: InteractiveShell,
    playground: Playground,
    users: dict[str, str],
    home: Path,
    ring: Keyring,
    monkeypatch: pytest.MonkeyPatch,
    asked: list[str],
) -> None:
    port, names = playground.port(1), shell.user_ns
    line = prepare(home, port, monkeypatch, ring, names)
    cluster = shell.run_line_magic("tidb_connect", line)
    assert cluster.address == f"joe@127.0.0.1:{port}"
    assert list(cluster.processlist(idle=True)["USER"].unique()) == ["joe"]
    assert cluster.state["SOURCE"] == source.replace("~", str(home))
    assert (f" from {cluster.state['SOURCE']}: TiDB v" in repr(cluster)) is bool(source)
    assert asked == []  # the password was there
    for name in ("connection", "cluster"):
        if name in names:
            names[name].close()
    if "engine" in names:
        names["engine"].dispose()


def test_the_playground_is_a_word_in_python_too(monkeypatch: pytest.MonkeyPatch, playground: Playground) -> None:
    monkeypatch.setattr("tidb_magic.playground.cluster.obtain", lambda _: playground)
    with tidb_magic.connect("playground") as cluster:
        assert cluster.address == f"root@127.0.0.1:{playground.port(0)}"


def test_without_anything_it_says_what_to_type() -> None:
    assert isinstance(find(), NotConnectedError)
    assert "Type: %tidb_connect mysql://user@host:4000" in refused()


# -- which goes first --------------------------------------------------------------------------------------------


def test_what_stands_first_in_the_help_goes_first(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _dot_env(home / ".env", 1)
    assert settings().port == 1
    monkeypatch.setenv("TIDB_PORT", "2")  # the environment before the file
    assert (settings().port, settings().source) == (2, f"TIDB_HOST of {home / '.env'}")
    monkeypatch.setenv("DATABASE_URL", "postgresql://db:3/x")  # another database's
    assert settings().port == 2
    monkeypatch.setenv("DATABASE_URL", "mysql://db:4/x")
    assert settings().port == 4
    monkeypatch.setenv("TIDB_MAGIC_URL", "mysql://db:5/x")
    assert settings().port == 5
    _my_cnf(home / ".my.cnf", 6, "mysql")  # a [client] alone is as likely to be of another server
    assert settings().port == 5
    _my_cnf(home / ".my.cnf", 6, "tidb_magic")
    assert settings().port == 6
    assert settings("mysql://db:7").port == 7


def test_a_password_of_the_source_goes_before_the_keyring(ring: Keyring) -> None:
    ring.set_password("tidb_magic", "joe@db:4000", "of the keyring")
    assert password(settings("mysql://joe:mine@db")) == "mine"


def test_a_locked_keyring_is_as_none(
    monkeypatch: pytest.MonkeyPatch, playground: Playground, users: dict[str, str], asked: list[str]
) -> None:
    from keyring.errors import KeyringLocked

    def locked(*_: str) -> str:
        raise KeyringLocked

    monkeypatch.setattr(Keyring, "get_password", locked)
    with pytest.raises(AuthenticationError, match="it cannot be prompted for here"):
        tidb_magic.connect(f"mysql://joe@127.0.0.1:{playground.port(0)}")
    assert asked == ["asked"]


# -- TLS of the sources ------------------------------------------------------------------------------------------


def test_the_tls_of_a_source_is_that_of_our_connection(with_tls: Playground, home: Path) -> None:
    ca = str(with_tls.folder / "ca.pem")
    where: dict[str, Any] = {"host": "127.0.0.1", "port": with_tls.port(0), "user": "root"}
    engine = sqlalchemy.create_engine("mysql+pymysql://", connect_args={**where, "ssl": {"ca": ca}})
    connection = pymysql.connect(**where, ssl_ca=ca, ssl_verify_cert=True, ssl_verify_identity=True)
    without = pymysql.connect(**where, ssl={"ca": ca, "check_hostname": False})
    plain = pymysql.connect(**where)
    (home / "my.cnf").write_text(f"[client]\nhost=127.0.0.1\nport={with_tls.port(0)}\nssl-ca={ca}\n")
    url = sqlalchemy.make_url(f"mysql+pymysql://root@127.0.0.1:{with_tls.port(0)}/?ssl_ca={ca}")
    for target, how in (
        (engine, "TLS verified"),
        (connection, "TLS verified"),
        (without, "TLS not verified"),
        (plain, "TLS not verified"),
        (url, "TLS verified"),
    ):
        with tidb_magic.connect(target) as cluster:
            assert cluster.state["TLS"] == how
    with tidb_magic.connect(defaults_file=str(home / "my.cnf")) as cluster:
        assert cluster.state["TLS"] == "TLS verified"
    for one in (connection, without, plain):
        one.close()
    engine.dispose()


def test_ca_path_of_the_environment_is_verified_tls(with_tls: Playground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDB_HOST", "127.0.0.1")
    monkeypatch.setenv("CA_PATH", str(with_tls.folder / "ca.pem"))
    assert verifies(settings().tls)
    monkeypatch.setenv("CA_PATH", "/nowhere/ca.pem")
    assert refused() == "TIDB_HOST of the environment: ssl_ca: there is no file /nowhere/ca.pem."


# -- what cannot be read -----------------------------------------------------------------------------------------


def test_two_things_at_once_are_refused(home: Path) -> None:
    assert "Name one thing to connect to" in refused("mysql://db", section="prod")


def test_things_that_are_no_connection_are_named(tmp_path: Path) -> None:
    assert refused(5) == (
        "Nothing to connect to: builtins.int is neither a URL nor an engine of SQLAlchemy nor a connection of PyMySQL."
    )
    assert "'prod' is not a URL" in refused("prod")
    assert "'...@db:4000' is not a URL" in refused(f"joe:{PLANTED}@db:4000")
    lite = sqlalchemy.create_engine("sqlite://")
    assert refused(lite) == "The engine is for sqlite, not for MySQL or TiDB."
    assert "is for sqlite, not for MySQL" in refused(lite.url)
    socket = pymysql.connect(unix_socket="/tmp/tidb.sock", password=PLANTED, defer_connect=True)
    assert "goes through a socket file" in refused(socket)


def engine_of(driver: str, url: str = "joe:planted-s3cret@db:4001/test", **connect_args: Any) -> Any:
    """Return an engine for a driver that is not installed here; it is never called."""
    module = SimpleNamespace(paramstyle="format", version_info=(2, 2, 0), __version__="2.2.0", Error=Exception)
    module.connect = module.Connect = lambda *_, **__: pytest.fail("the driver was called")
    made = sqlalchemy.create_engine(f"mysql+{driver}://{url}", module=module, connect_args=connect_args)
    return AsyncEngine(made) if driver == "aiomysql" else made


DRIVERS = ["mysqldb", "mysqlconnector", "aiomysql"]


@pytest.mark.parametrize("driver", DRIVERS)
def test_an_engine_of_another_driver_is_taken_with_what_it_calls_its_driver_with(driver: str) -> None:
    found = settings(engine_of(driver))
    assert (found.host, found.port, found.user, found.database, found.tls) == ("db", 4001, "joe", "test", None)
    assert found.password is not None
    assert found.password.reveal() == PLANTED.encode()
    found = settings(engine_of(driver, "db", user="ann", password="other"))
    assert (found.user, found.password and found.password.reveal()) == ("ann", b"other")


@pytest.mark.parametrize("driver", DRIVERS)
def test_the_tls_of_an_engine_of_another_driver_is_not_lost(driver: str, with_tls: Playground) -> None:
    """With it in connect_args only, the URL says nothing of it: we would connect with less."""
    ca = str(with_tls.folder / "ca.pem")
    for connect_args in ({"ssl": {"ca": ca}}, {"ssl_ca": ca}, {"ssl": ssl.create_default_context(cafile=ca)}):
        assert verifies(settings(engine_of(driver, **connect_args)).tls)
    assert "the option ssl_cipher is not known" in refused(engine_of(driver, ssl={"cipher": "AES"}))
    where = f"root@127.0.0.1:{with_tls.port(0)}"
    with tidb_magic.connect(engine_of(driver, where, ssl={"ca": ca})) as cluster:
        assert cluster.state["TLS"] == "TLS verified"


def test_an_engine_of_another_driver_connects_as_before_afterwards() -> None:
    engine = engine_of("mysqlconnector")
    settings(engine)
    with pytest.raises(pytest.fail.Exception, match="the driver was called"):
        engine.raw_connection()
    assert "goes through a socket file" in refused(engine_of("mysqldb", "joe@/test?unix_socket=/tmp/x"))


def test_an_engine_that_cannot_connect_says_why_in_a_line(playground: Playground, users: dict[str, str]) -> None:
    engine = sqlalchemy.create_engine(f"mysql+pymysql://joe:{PLANTED}-not@127.0.0.1:{playground.port(0)}/test")
    said = refused(engine)
    assert "(an engine of SQLAlchemy) refused the user or the password" in said
    assert PLANTED not in said


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (f"password={PLANTED}\n[client]", "is not a MySQL option file (MissingSectionHeaderError)."),
        ("[mysqld]\nport=1\n", "has neither a group [client] nor [tidb_magic]; it has: mysqld."),
        (f"[client]\nport=x\npassword={PLANTED}", "the port is a number from 0 to 65535, not 'x'."),
        (f"[client]\nsocket=/tmp/x\npassword={PLANTED}", "names a socket and no host"),
        (f"[tidb_magic]\nhots=db\npassword={PLANTED}", "there is no option hots in [tidb_magic]; there are host, port"),
        (f"[client]\nssl-ca=/nowhere\npassword={PLANTED}", "ssl_ca: there is no file /nowhere."),
    ],
)
def test_a_bad_option_file_is_one_line(home: Path, content: str, says: str) -> None:
    (home / "my.cnf").write_text(content)
    assert says in refused(defaults_file=str(home / "my.cnf"))


def test_an_empty_password_in_a_file_is_none(home: Path) -> None:
    for line in ("password=", "password", "password=''"):
        (home / "my.cnf").write_text(f"[client]\nhost=db\n{line}\n")
        assert settings(defaults_file="~/my.cnf").password is None


def test_an_option_file_or_a_group_that_is_not_there_is_named(home: Path) -> None:
    assert "Cannot read the option file" in refused(defaults_file="/nowhere/my.cnf")
    _my_cnf(home / "my.cnf", 1, "prod")
    assert "has no group [test]; it has: client, prod." in refused(defaults_file="~/my.cnf", section="test")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "There is no connections file"),
        ("[other]\nhost=db\n", "has no section [prod]; it has: other."),
        (f"[prod]\ndrivername=mysql\npassword={PLANTED}%oops", "cannot be read (Interpolation"),
        (f"[prod]\ndrivername=postgresql\npassword={PLANTED}", "is for postgresql, not for MySQL or TiDB."),
        (f"[prod]\ndrivername=mysql\nhost=db\npassword={PLANTED}\nquery=[1", "is not a dictionary."),
        (f"[prod]\ndrivername=mysql\nport=x\npassword={PLANTED}", "the port is a number from 0 to 65535"),
    ],
)
def test_a_bad_connections_file_is_one_line(home: Path, content: str | None, says: str) -> None:
    (home / ".jupysql").mkdir()
    if content is not None:
        (home / ".jupysql" / "connections.ini").write_text(content)
    assert says in refused(section="prod")


def test_the_connections_file_is_the_one_that_jupysql_uses(shell: InteractiveShell, home: Path, tmp_path: Path) -> None:
    shell.run_line_magic("reload_ext", "sql")
    other = tmp_path / "other.ini"
    query = json.dumps({"ssl_mode": "REQUIRED"})
    other.write_text(f"[prod]\ndrivername=mysql+pymysql\nhost=elsewhere\nusername=ann\nquery={query}\n")
    magic = shell.magics_manager.registry["SqlMagic"]
    before, magic.dsn_filename = magic.dsn_filename, str(other)
    try:
        found = settings(section="prod")
    finally:
        magic.dsn_filename = before
    assert (found.address, verifies(found.tls)) == ("ann@elsewhere:4000", True)


def test_without_a_current_connection_of_jupysql_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from sql.connection import ConnectionManager

    monkeypatch.setattr(ConnectionManager, "current", None)
    assert "jupysql has no connection now" in refused("sql")
    for name in [name for name in sys.modules if name.partition(".")[0] == "sql"]:
        monkeypatch.delitem(sys.modules, name)
    assert "jupysql has no connection now" in refused("sql")


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        (
            "TIDB_MAGIC_URL",
            f"postgres://joe:{PLANTED}@db",
            "(TIDB_MAGIC_URL of the environment): the URL does not begin",
        ),
        ("TIDB_MAGIC_URL", f"mysql://joe:{PLANTED}@db:port", "the port is not a number"),
        ("DATABASE_URL", f"mysql://joe:{PLANTED}@[db", "(DATABASE_URL of the environment): it is not a URL"),
        ("DATABASE_URL", f"mysql://joe:{PLANTED}@db?charset=utf8&x=1", "the option x is not known"),
        ("TIDB_HOST", "db", "TIDB_HOST of the environment: the port is a number from 0 to 65535, not 'x'."),
    ],
)
def test_a_bad_variable_is_named_without_its_value(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str
) -> None:
    monkeypatch.setenv("TIDB_PORT", "x")
    monkeypatch.setenv("TIDB_PASSWORD", PLANTED)
    monkeypatch.setenv(variable, value)
    assert says in refused()


def test_the_password_of_a_pymysql_connection_arrives_as_it_was_sent(playground: Playground) -> None:
    """PyMySQL encodes a text as latin1; as UTF-8 it would be another password."""
    with Client(playground) as root:
        root.query(b"CREATE USER IF NOT EXISTS umlaut IDENTIFIED BY '" + "größe".encode("latin1") + b"'")
    connection = pymysql.connect(host="127.0.0.1", port=playground.port(0), user="umlaut", password="größe")
    with tidb_magic.connect(connection) as cluster:
        assert cluster.address.startswith("umlaut@")
    connection.close()
