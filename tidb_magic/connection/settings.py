"""Where and how to connect: a URL taken apart, and passwords that show no value."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, NoReturn, Self
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from tidb_magic.connection.tls import OPTIONS, context
from tidb_magic.errors import SettingsError

DEFAULT_PORT = 4000
_LAST_PORT = 65_535
_NO_PORT = "the port is not a number from 0 to 65535 (in a password @ : / # are written %40 %3A %2F %23)"
_DIALECTS = ("mysql", "tidb")
# Options that drivers and SQLAlchemy take in a URL and that do not change the address, the user or the security.
_NO_MATTER = {
    "autocommit",
    "binary_prefix",
    "charset",
    "client_flag",
    "collation",
    "connect_timeout",
    "init_command",
    "local_infile",
    "max_allowed_packet",
    "program_name",
    "read_timeout",
    "sql_mode",
    "use_unicode",
    "write_timeout",
}


class Secret:
    """A password. It shows no value in repr, format, tracebacks with locals or pickles; `reveal` gives it.

    >>> Secret("hunter2")
    Secret(...)
    >>> f"{Secret('hunter2')}"
    'Secret(...)'
    """

    __slots__ = ("_value",)

    def __init__(self, value: str | bytes) -> None:
        self._value = value.encode() if isinstance(value, str) else value

    def reveal(self) -> bytes:
        """Return the password as it is sent."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return "Secret(...)"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("A password is not pickled: connect again where you need it.")


@dataclass(frozen=True)
class Settings:
    """How to open a connection. `password` is None where none was given.

    `tls` is None where nothing was said of TLS, and False where it was switched off.
    `source` says where this comes from, if no person typed it. `trusted` is whether a person named this server. One
    that another server advertised gets no password that it could read: it has to challenge us (mysql_native_password),
    or to prove its identity by TLS.
    """

    host: str
    port: int = DEFAULT_PORT
    user: str = "root"
    password: Secret | None = None
    database: str | None = None
    tls: ssl.SSLContext | Literal[False] | None = field(default=None, repr=False)
    source: str = field(default="", repr=False, compare=False)
    trusted: bool = field(default=True, repr=False)

    @property
    def address(self) -> str:
        """``user@host:port``, for people."""
        return f"{self.user}@{host_port(self.host, self.port)}"

    @property
    def named(self) -> str:
        """The same, with the source in brackets if no person typed it."""
        return f"{self.address} ({self.source})" if self.source else self.address


def host_port(host: str, port: int) -> str:
    """Return ``host:port``, an IPv6 address in brackets.

    >>> host_port("::1", 4000)
    '[::1]:4000'
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_url(url: str, source: str = "") -> Settings:
    """Take ``mysql://[user[:password]@]host[:port][/database][?ssl_ca=PATH ...]`` apart.

    ``mysql+pymysql://`` and other drivers' URLs are the same. Of the options those of TLS count (`tls.OPTIONS`); those
    that say how to read and write values do not matter here, and others are refused.

    Raises
    ------
    SettingsError
        It is no such URL. The message never holds the password.

    Examples
    --------
    >>> parse_url("mysql://analyst@db.example.com")
    Settings(host='db.example.com', port=4000, user='analyst', password=None, database=None)
    >>> parse_url("mysql://a%40b:p%3Aw@[::1]:4001/shop")
    Settings(host='::1', port=4001, user='a@b', password=Secret(...), database='shop')
    """
    settings: Settings | None = None
    problem = ""
    try:
        settings = _settings(urlsplit(url.strip()), source)
    except ValueError as error:  # a port that is no number, brackets that do not close; Python shows parts of the URL
        problem = _NO_PORT if str(error).startswith("Port") else "it is not a URL"
    except SettingsError as error:
        problem = str(error).removesuffix(".")
    del url  # a traceback with locals must not show the password
    if settings is None:
        where = f" ({source})" if source else ""
        raise SettingsError(f"Cannot connect{where}: {problem}. A URL looks like mysql://user@host:4000/database.")
    return settings


def _settings(parts: SplitResult, source: str) -> Settings:
    if not is_mysql(parts.scheme):
        raise SettingsError("the URL does not begin with mysql://")
    if not parts.hostname:
        raise SettingsError("the URL names no host")
    if parts.fragment:
        raise SettingsError("the URL contains a #; in a password, write %23")
    return settings_of(
        source,
        host=parts.hostname,
        port=parts.port,
        user=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
        database=unquote(parts.path.removeprefix("/")),
        options=dict(parse_qsl(parts.query, keep_blank_values=True)),
    )


def masked(word: str) -> str:
    """Return what was typed in the place of a URL without what can be a password.

    >>> masked("joe:hunter2@db:4000"), masked("prod")
    ('...@db:4000', 'prod')
    """
    return f"...@{word.rpartition('@')[2]}" if "@" in word else word


def is_mysql(scheme: str) -> bool:
    """Tell whether a URL's scheme is one of MySQL's, or of TiDB's dialect of SQLAlchemy, with any driver.

    >>> is_mysql("mysql+pymysql"), is_mysql("postgresql")
    (True, False)
    """
    return scheme.partition("+")[0] in _DIALECTS


def settings_of(  # noqa: PLR0913 (what a source can say)
    source: str,
    *,
    host: str | None,
    port: str | int | None = None,
    user: str | None = None,
    password: str | bytes | None = None,
    database: str | None = None,
    options: Mapping[str, str] = MappingProxyType({}),
) -> Settings:
    """Return what a source says as Settings; nothing and an empty text are the default, of a password None only.

    Raises
    ------
    SettingsError
        An option is unknown or has no such value. The traceback holds the password: see `parse_url`.
    """
    host = host or "127.0.0.1"
    try:
        number = int(DEFAULT_PORT if port in (None, "") else port)
    except ValueError:
        number = -1
    if not 0 <= number <= _LAST_PORT:
        raise SettingsError(f"the port is a number from 0 to {_LAST_PORT}, not {port!r}.")
    if unknown := sorted(options.keys() - {*OPTIONS, *_NO_MATTER}):
        raise SettingsError(f"the option {unknown[0]} is not known; of TLS there are {', '.join(OPTIONS)}.")
    try:
        for text in (host, user, database):
            (text or "").encode()
        used = context({name: options[name] for name in OPTIONS if name in options}, host)
        secret = None if password is None else Secret(password)
    except UnicodeEncodeError:  # which holds the text
        raise SettingsError("it contains half of a character (a lone surrogate).") from None
    return Settings(host, number, user or "root", secret, database or None, used, source)
