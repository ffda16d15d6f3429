"""Where the settings of a connection come from: what a person names, files, and the environment."""

import ssl
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tidb_magic.connection.config_files import from_connections_file, from_home_or_environment, from_option_file, named
from tidb_magic.connection.error_map import connect_error, strip_traceback
from tidb_magic.connection.settings import Secret, Settings, is_mysql, masked, parse_url, settings_of
from tidb_magic.connection.tls import context
from tidb_magic.display.render import first_line
from tidb_magic.errors import Interrupted, SettingsError, TidbMagicError

_KEYRING = "tidb_magic"  # the name of the service in it


def find(
    target: object = None,
    *,
    section: str | None = None,
    defaults_file: str | None = None,
    ssl_ca: str | None = None,
) -> Settings | TidbMagicError:
    """Return how to connect to what a person named, or found in files and the environment if nothing is named.

    An error is returned, not raised: its traceback would hold what was given, passwords too.

    Parameters
    ----------
    target
        A URL; ``sql``, the current connection of jupysql; ``playground``; an engine, connection or URL of SQLAlchemy;
        a connection of PyMySQL; or Settings.
    section
        A section of jupysql's connections file, or, with `defaults_file`, a group of that file.
    defaults_file
        A MySQL option file: its groups [client] and [tidb_magic].
    ssl_ca
        A file of CA certificates: TLS, verified.

    Raises
    ------
    Interrupted
    """
    try:
        if (target is not None) + (section is not None or defaults_file is not None) > 1:
            raise SettingsError("Name one thing to connect to: a target, or --section and --defaults-file.")
        found = _find(target, section, defaults_file)
        if ssl_ca is not None:
            if found.tls is False:
                raise SettingsError("TLS is disabled there, and --ssl-ca requires it.")
            found = replace(found, tls=context({"ssl_ca": ssl_ca or "(nothing)"}, found.host))
    except TidbMagicError as error:
        error.__cause__ = None
        strip_traceback(error)
        return error
    return found


def _find(target: object, section: str | None, defaults_file: str | None) -> Settings:
    if defaults_file is not None:
        return from_option_file(Path(defaults_file).expanduser(), section)
    if section is not None:
        return from_connections_file(section)
    if target is None:
        return from_home_or_environment()
    if isinstance(target, Settings):
        return target
    if isinstance(target, str):
        return _from_word(target)
    return _from_object(target)


def _from_word(word: str) -> Settings:
    word = word.strip()
    if "://" in word:
        return parse_url(word)
    if word == "sql":
        return _from_jupysql()
    if word == "playground":
        return _from_playground()
    raise SettingsError(f"{masked(word)!r} is not a URL (mysql://user@host:4000), nor sql, nor playground.")


# -- objects ---------------------------------------------------------------------------------------------------------


def _from_object(target: Any, source: str = "") -> Settings:
    if _is_of(target, "sqlalchemy"):
        target = getattr(target, "sync_engine", target)  # of an asynchronous one
        target = getattr(target, "engine", target)  # of a connection; an engine is its own
        if hasattr(target, "drivername"):
            return _from_sqlalchemy_url(target, source or "a URL of SQLAlchemy")
        if hasattr(target, "pool"):
            return _from_engine(target, source or "an engine of SQLAlchemy")
    if _is_of(target, "pymysql"):
        return settings_of_pymysql(target, source or "a connection of PyMySQL")
    kind = f"{type(target).__module__}.{type(target).__qualname__}"
    raise SettingsError(
        f"Nothing to connect to: {kind} is neither a URL nor an engine of SQLAlchemy nor a connection of PyMySQL."
    )


def _is_of(target: object, package: str) -> bool:
    """Tell whether something is of a package, without importing that."""
    return any(kind.__module__.partition(".")[0] == package for kind in type(target).__mro__)


def _from_engine(engine: Any, source: str) -> Settings:
    """Return the settings of an engine, which are those of its connections: what was given besides the URL is there."""
    if not is_mysql(engine.url.drivername):
        raise SettingsError(f"The engine is for {first_line(engine.url.drivername)}, not for MySQL or TiDB.")
    if engine.dialect.driver != "pymysql":
        return _from_arguments(_connect_arguments(engine), source)
    about = _from_sqlalchemy_url(engine.url, source, options=False)
    pool = engine.pool.recreate()  # no connection of other code is used or waited for
    try:
        opened = pool.connect()
        found = settings_of_pymysql(opened.driver_connection, source)
        opened.close()
    except TidbMagicError:
        raise
    except Exception as error:  # noqa: BLE001 (of the driver)
        raise connect_error(about, error) from None
    finally:
        pool.dispose()
    return found


class _AskedError(Exception):
    """The engine was about to call its driver."""


def _connect_arguments(engine: Any) -> dict[str, Any]:
    """Return what an engine calls its driver with: the URL does not have what was given in connect_args."""
    from sqlalchemy import event

    arguments: dict[str, Any] = {}
    here = threading.get_ident()

    def note(_dialect: object, _record: object, _positional: object, named: dict[str, Any]) -> None:
        if threading.get_ident() == here:  # others may connect meanwhile
            arguments.update(named)
            raise _AskedError

    pool = engine.pool.recreate()
    event.listen(engine, "do_connect", note)
    try:
        pool.connect()
    except _AskedError:
        pass
    finally:
        event.remove(engine, "do_connect", note)
        pool.dispose()
    return arguments


def _from_arguments(arguments: dict[str, Any], source: str) -> Settings:
    """Return the settings that a driver is called with, by the names that MySQL's drivers give them."""
    given = {name: value for name, value in arguments.items() if value is not None}
    if "unix_socket" in given:
        raise SettingsError("That engine goes through a socket file; tidb_magic connects by host and port only.")
    tls = given.pop("ssl", None)
    options = {name: _option(value) for name, value in given.items() if name.startswith("ssl_")}
    if isinstance(tls, Mapping):
        options |= {f"ssl_{name}": _option(value) for name, value in tls.items()}
    elif isinstance(tls, bool):
        options["ssl"] = _option(tls)
    with named(source):
        found = settings_of(
            source,
            host=given.get("host"),
            port=given.get("port"),
            user=given.get("user"),
            password=given.get("password", given.get("passwd")),
            database=given.get("database", given.get("db")),
            options=options,
        )
    return replace(found, tls=tls) if isinstance(tls, ssl.SSLContext) else found


def _option(value: object) -> str:
    """Return a value as a URL has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _from_sqlalchemy_url(url: Any, source: str, *, options: bool = True) -> Settings:
    if not is_mysql(url.drivername):
        raise SettingsError(f"The URL is for {first_line(url.drivername)}, not for MySQL or TiDB.")
    given = {name: value if isinstance(value, str) else value[-1] for name, value in url.query.items()}
    with named(source):
        return settings_of(
            source,
            host=url.host,
            port=url.port,
            user=url.username,
            password=None if url.password is None else str(url.password),
            database=url.database,
            options=given if options else {},
        )


def settings_of_engine(engine: Any) -> Settings:
    """Return the settings of an engine of SQLAlchemy, with any driver. Raises SettingsError."""
    return _from_arguments(_connect_arguments(engine), "an engine of SQLAlchemy")


def settings_of_pymysql(connection: Any, source: str) -> Settings:
    """Return the settings of a connection of PyMySQL. Raises SettingsError."""
    if connection.unix_socket:
        raise SettingsError("That connection goes through a socket file; tidb_magic connects by host and port only.")
    texts = [one.decode() if isinstance(one, bytes) else one for one in (connection.user, connection.db)]
    found = settings_of(
        source,
        host=connection.host,
        port=connection.port,
        user=texts[0],
        password=connection.password or None,
        database=texts[1],
    )
    # It also holds a context where TLS is only used if the server offers it (PyMySQL from 1.2 on).
    asked = connection.ssl and getattr(connection, "_ssl_required", True)
    return replace(found, tls=connection.ctx if asked else None if connection.ssl else False)


def _from_jupysql() -> Settings:
    module = sys.modules.get("sql.connection.connection") or sys.modules.get("sql.connection")
    current = getattr(getattr(module, "ConnectionManager", None), "current", None)
    if current is None:
        raise SettingsError("jupysql has no connection now. First: %load_ext sql, then %sql mysql+pymysql://...")
    return _from_object(current._connection, "the connection of jupysql")  # noqa: SLF001 (no other way)


def _from_playground() -> Settings:
    try:
        from tidb_magic.playground.cluster import obtain
        from tidb_magic.playground.records import Options
    except ModuleNotFoundError as error:
        raise SettingsError(str(error)) from error
    try:
        found = obtain(Options(workload=True)).url(0)
    except KeyboardInterrupt:
        raise Interrupted("Everything that was started has been stopped.") from None
    return parse_url(found)


# -- the password ------------------------------------------------------------------------------------------------------


def with_keyring(settings: Settings) -> Settings:
    """Add the password that the keyring has for this user there, if keyring is installed and has one."""
    if find_spec("keyring") is None:
        return settings
    import keyring
    from keyring.errors import KeyringError

    try:
        password = keyring.get_password(_KEYRING, settings.address)
    except KeyringError:  # this machine has none, or it is locked
        return settings
    return settings if password is None else replace(settings, password=Secret(password))
