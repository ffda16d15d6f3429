"""Where and how to connect: a URL taken apart, and passwords that show no value."""

from dataclasses import dataclass, field
from typing import NoReturn, Self
from urllib.parse import SplitResult, unquote, urlsplit

from tidb_magic.errors import OptionError, SettingsError

DEFAULT_PORT = 4000
_DAY = 86_400
SCHEMES = ("mysql", "mysql+pymysql")


class Secret:
    """A password. It shows no value in repr, format, tracebacks with locals or pickles; `reveal` gives it.

    >>> Secret("hunter2")
    Secret(...)
    >>> f"{Secret('hunter2')}"
    'Secret(...)'
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """Return the password as it is sent."""
        return self._value.encode()

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

    `trusted` is whether a person named this server. One that another server told us of gets no password that it could
    read: it has to challenge us (mysql_native_password).
    """

    host: str
    port: int = DEFAULT_PORT
    user: str = "root"
    password: Secret | None = None
    database: str | None = None
    trusted: bool = field(default=True, repr=False)

    @property
    def address(self) -> str:
        """``user@host:port``, for people."""
        return f"{self.user}@{host_port(self.host, self.port)}"


def host_port(host: str, port: int) -> str:
    """Return ``host:port``, an IPv6 address in brackets.

    >>> host_port("::1", 4000)
    '[::1]:4000'
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def seconds(value: object, name: str) -> float:
    """Check a number of seconds, above 0 and up to a day.

    Raises
    ------
    OptionError
        It is none; the message names the option.

    Examples
    --------
    >>> seconds(2, "timeout")
    2.0
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= _DAY:
        return float(value)
    raise OptionError(f"{name} is a number of seconds above 0 and up to {_DAY} (a day), not {value!r}.")


def parse_url(url: str) -> Settings:
    """Take ``mysql://user[:password]@host[:port][/database]`` apart.

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
        settings = _settings(urlsplit(url))
    except ValueError as error:  # a port that is no number, brackets that do not close; Python shows parts of the URL
        problem = "the port is not a number from 0 to 65535" if str(error).startswith("Port") else "it is no URL"
    except SettingsError as error:
        problem = str(error)
    del url  # a traceback with locals must not show the password
    if settings is None:
        raise SettingsError(f"Cannot connect: {problem}. A URL looks like mysql://user@host:4000/database")
    return settings


def _settings(parts: SplitResult) -> Settings:
    problem = ""
    if parts.scheme not in SCHEMES:
        problem = "the URL does not begin with mysql://"
    elif not parts.hostname:
        problem = "the URL names no host"
    elif parts.query or parts.fragment:
        problem = "the URL has options after the database (? or #), which are not supported"
    settings = Settings(
        parts.hostname or "",
        DEFAULT_PORT if parts.port is None else parts.port,
        unquote(parts.username or "root"),
        None if parts.password is None else Secret(unquote(parts.password)),
        unquote(parts.path.removeprefix("/")) or None,
    )
    del parts
    if problem:
        raise SettingsError(problem)
    return settings
