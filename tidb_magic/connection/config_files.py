"""Settings of a connection in files: option files, jupysql's file of connections, the environment."""

import ast
import configparser
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tidb_magic.connection.settings import Settings, is_mysql, parse_url, settings_of
from tidb_magic.connection.tls import OPTIONS
from tidb_magic.display.render import first_line
from tidb_magic.errors import NotConnectedError, SettingsError

_MY_CNF, _CONNECTIONS = "~/.my.cnf", "~/.jupysql/connections.ini"
_GROUP = "tidb_magic"  # of a MySQL option file, after [client]
_KEYS = ("host", "port", "user", "password", "database", "socket")
_QUOTED = re.compile(r"^(['\"])(.*)\1$")
_NOTHING = (
    "No cluster is configured. Type: %tidb_connect mysql://user@host:4000 (or: %tidb_connect playground)."
    " %tidb_connect? lists all sources."
)


def from_option_file(file: Path, group: str | None = None) -> Settings:
    """Read the group [client] of a MySQL option file, and that one, else [tidb_magic], whose options go first."""
    found = _option_file(file)
    if group is not None and group not in found:
        raise SettingsError(f"{file} has no group [{group}]; it has: {_names(found)}.")
    values = {**found.get("client", {}), **found.get(group or _GROUP, {})}
    if not values:
        raise SettingsError(f"{file} has neither a group [client] nor [{_GROUP}]; it has: {_names(found)}.")
    ours = found.get(group or _GROUP, {}).keys() - {*_KEYS, *(name.replace("_", "-") for name in OPTIONS)}
    if group is None and ours:
        raise SettingsError(
            f"{file}: there is no option {min(ours)} in [{_GROUP}]; there are {', '.join(_KEYS)}, ssl-ca ..."
        )
    if values.get("socket") and not values.get("host"):
        raise SettingsError(f"{file} names a socket and no host; tidb_magic connects by host and port only.")
    options = {key.replace("-", "_"): value or "true" for key, value in values.items()}
    return _of_file(str(file), values, "user", {name: options[name] for name in OPTIONS if name in options})


def _option_file(file: Path) -> dict[str, dict[str, str | None]]:
    """Return the groups of a MySQL option file, each with the options by their names with ``-``."""
    parser = configparser.RawConfigParser(allow_no_value=True, strict=False, delimiters=("=",))
    problem = ""
    try:
        parser.read_string(file.read_text())
    except OSError as error:
        problem = f"Cannot read the option file {file}: {error.strerror}."
    except (configparser.Error, UnicodeDecodeError) as error:  # its text shows a line of the file
        problem = f"{file} is not a MySQL option file ({type(error).__name__})."
    if problem:
        raise SettingsError(problem)
    return {
        name: {key.replace("_", "-"): value and _QUOTED.sub(r"\2", value) for key, value in parser.items(name)}
        for name in parser.sections()
    }


def _of_file(source: str, values: Mapping[str, str | None], user: str, options: Mapping[str, str]) -> Settings:
    with named(source):
        return settings_of(
            source,
            host=values.get("host"),
            port=values.get("port"),
            user=values.get(user),
            password=values.get("password") or None,
            database=values.get("database"),
            options=options,
        )


@contextmanager
def named(source: str) -> Iterator[None]:
    """Put the source before what is wrong in it."""
    try:
        yield
    except SettingsError as error:
        raise SettingsError(f"{source}: {error}") from None


def from_connections_file(section: str) -> Settings:
    """Read a section of jupysql's connections file as jupysql does."""
    file = Path(_jupysql_file()).expanduser()
    parser = configparser.ConfigParser()
    try:
        parser.read_string(file.read_text())
        values = dict(parser.items(section))
    except OSError as error:
        raise SettingsError(f"There is no connections file {file} ({error.strerror}).") from None
    except configparser.NoSectionError:
        raise SettingsError(f"{file} has no section [{section}]; it has: {_names(parser.sections())}.") from None
    except (configparser.Error, UnicodeDecodeError) as error:  # its text shows a line of the file
        raise SettingsError(f"{file} cannot be read ({type(error).__name__}); % is written %% there.") from None
    dialect = values.get("drivername", "")
    if not is_mysql(dialect):
        raise SettingsError(f"The section [{section}] of {file} is for {dialect or 'nothing'}, not for MySQL or TiDB.")
    try:
        options = ast.literal_eval(values.get("query") or "{}")
        options = {str(name): str(value) for name, value in options.items()}
    except (ValueError, SyntaxError, AttributeError):
        raise SettingsError(f"query in the section [{section}] of {file} is not a dictionary.") from None
    return _of_file(f"[{section}] of {file}", values, "username", options)


def _jupysql_file() -> str:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    magic = shell.magics_manager.registry.get("SqlMagic") if shell else None
    return getattr(magic, "dsn_filename", _CONNECTIONS)


def _names(names: Iterable[str]) -> str:
    return ", ".join(first_line(name, 40) for name in names) or "nothing"


def from_home_or_environment() -> Settings:
    """Find what is set up for tidb_magic, or for TiDB's own sample programs."""
    home = Path(_MY_CNF).expanduser()
    if home.is_file() and _GROUP in _option_file(home):  # a [client] alone is as likely to be of another server
        return from_option_file(home)
    given = _environment()
    for name in ("TIDB_MAGIC_URL", "DATABASE_URL"):
        url, source = given.get(name, ("", ""))
        if (url and name == "TIDB_MAGIC_URL") or is_mysql(url.partition(":")[0]):
            return parse_url(url, source)
    host, source = given.get("TIDB_HOST", ("", ""))
    if not host:
        raise NotConnectedError(_NOTHING)
    values = {name: value for name, (value, _) in given.items()}
    with named(source):
        return settings_of(
            source,
            host=host,
            port=values.get("TIDB_PORT"),
            user=values.get("TIDB_USER"),
            password=values.get("TIDB_PASSWORD") or None,
            database=values.get("TIDB_DB_NAME"),
            options={"ssl_ca": values.get("CA_PATH", "")},
        )


def _environment() -> dict[str, tuple[str, str]]:
    """Return the variables of the environment and of a .env of this folder or one above, each with where it is."""
    from dotenv import dotenv_values, find_dotenv

    file = find_dotenv(usecwd=True)
    there = {name: (value or "", f"{name} of {file}") for name, value in dotenv_values(file).items()} if file else {}
    return {**there, **{name: (value, f"{name} of the environment") for name, value in os.environ.items() if value}}
