"""What goes wrong between us and a server, as errors for people: one table of the driver's errors and the server's."""

import ssl
from collections.abc import Mapping

import pymysql
from pymysql.constants import CR, ER

from tidb_magic.connection.settings import Settings
from tidb_magic.display.render import first_line
from tidb_magic.errors import AuthenticationError, ConnectError, DeadlineError, RightsError, ServerError, TlsError

_INSECURE, _NO_PRIVILEGE, _PASSED, _READ_ONLY = 3159, 8121, 3024, 1836  # TiDB's, not among the driver's constants
_REFUSED = "{name} refused the user or the password ({message})."
_LOST = "{name} ended the connection ({message}). The next call opens a new one."
_NO_RIGHT = "{message} (error {code}). Ask for this privilege, or connect as another user."
_NO_WRITES = (
    "{message} (error {code}): tidb_super_read_only or tidb_restricted_read_only is ON, which refuses KILL. A user with"
    " RESTRICTED_REPLICA_WRITER_ADMIN may still send it."
)
_GAVE_UP = "{name} ended our statement by its deadline ({message})."
# What an error of a login means; others mean that no server answers there.
_LOGIN: Mapping[int, tuple[type[ConnectError], str]] = {
    ER.ACCESS_DENIED_ERROR: (AuthenticationError, _REFUSED),
    ER.DBACCESS_DENIED_ERROR: (
        AuthenticationError,
        "{name} denies this user access to the database ({message}). Omit the database.",
    ),
    ER.BAD_DB_ERROR: (ConnectError, "The database does not exist at {name} ({message}). Omit it, or name another."),
    ER.CON_COUNT_ERROR: (ConnectError, "{name} accepts no more connections ({message}). Try again later."),
    CR.CR_AUTH_PLUGIN_CANNOT_LOAD: (AuthenticationError, "Not logged in to {name}: {message}."),
    CR.CR_SSL_CONNECTION_ERROR: (TlsError, "{name} does not offer TLS, which is required; no login was attempted."),
    _INSECURE: (TlsError, "{name} requires TLS ({message}). Give its CA with --ssl-ca PATH."),
}
_UNREACHABLE = (ConnectError, "Cannot reach {name} ({message}). Is it running, and are host and port right?")
# And of a statement; others are the server's own words.
_STATEMENT: Mapping[int, tuple[type[ConnectError | DeadlineError | ServerError], str]] = {
    0: (ConnectError, _LOST),
    CR.CR_SERVER_GONE_ERROR: (ConnectError, _LOST),
    CR.CR_SERVER_LOST: (ConnectError, _LOST),
    _PASSED: (DeadlineError, _GAVE_UP),
    ER.QUERY_INTERRUPTED: (DeadlineError, _GAVE_UP),
    ER.DBACCESS_DENIED_ERROR: (RightsError, _NO_RIGHT),
    ER.TABLEACCESS_DENIED_ERROR: (RightsError, _NO_RIGHT),
    ER.COLUMNACCESS_DENIED_ERROR: (RightsError, _NO_RIGHT),
    ER.SPECIFIC_ACCESS_DENIED_ERROR: (RightsError, _NO_RIGHT),
    _NO_PRIVILEGE: (RightsError, _NO_RIGHT),
    _READ_ONLY: (RightsError, _NO_WRITES),
}
_OTHER = (ServerError, "{message} (error {code})")
_GAVE_UP_WORDS = ("context canceled", "context deadline exceeded")


class UnsafeError(pymysql.OperationalError):
    """The server asked for the password in a way that would let it, or others, read it."""


def strip_traceback(error: BaseException) -> BaseException:
    """Cut the traceback off: the driver's frames hold the password."""
    error.__context__ = None
    return error.with_traceback(None)


def connect_error(settings: Settings, error: Exception) -> ConnectError:
    """Return what went wrong with a login."""
    code, message = _said(error)
    name = settings.named
    failed = getattr(error, "original_exception", error)
    if isinstance(error, UnsafeError):
        return AuthenticationError(f"Not logged in to {name}: {message}.")
    if isinstance(failed, ssl.SSLCertVerificationError):
        return TlsError(
            f"The certificate of {name} cannot be verified ({first_line(failed.verify_message)}). Give its CA with"
            " --ssl-ca PATH, and use the host name in that certificate."
        )
    if isinstance(failed, ssl.SSLError):
        return TlsError(f"TLS with {name} failed ({first_line(failed.reason or failed)}).")
    if isinstance(error, pymysql.InternalError) and message.startswith("Packet sequence"):
        return ConnectError(f"The server at {name} does not speak MySQL's protocol. Is the port right?")
    kind, text = _LOGIN.get(code, _UNREACHABLE)
    return kind(text.format(name=name, message=message))


def statement_error(
    settings: Settings, error: pymysql.Error, *, lost: bool
) -> ConnectError | DeadlineError | ServerError:
    """Return what went wrong with a statement; `lost` is whether the connection was closed by it."""
    code, message = _said(error)
    kind, text = _STATEMENT[0] if lost else _STATEMENT.get(code, _OTHER)
    if kind is ServerError and message.startswith(_GAVE_UP_WORDS):
        kind, text = _STATEMENT[_PASSED]
    said = text.format(name=settings.address, message=message, code=code)
    return kind(said, code) if issubclass(kind, ServerError) else kind(said)


def _said(error: Exception) -> tuple[int, str]:
    """Return the number of an error, 0 if it has none, and its first line."""
    code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    return code, first_line(error.args[-1] if error.args else error)
