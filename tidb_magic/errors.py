"""What can go wrong, one class for each thing a person can do about it."""

from pickle import PicklingError


class TidbMagicError(Exception):
    """Something did not work; the message says what happened, why, and what to do."""

    def _render_traceback_(self: BaseException) -> list[str]:
        """Show one line in a notebook instead of a traceback (IPython asks for this by name)."""
        return [f"{type(self).__name__}: {self}"]


class SettingsError(TidbMagicError):
    """What you gave does not say where and how to connect, or cannot be read."""


class OptionError(TidbMagicError):
    """You gave an option a value that it cannot have. Nothing was sent."""


class ConnectError(TidbMagicError):
    """The server could not be reached, or it ended the connection."""


class ConnectTimeoutError(ConnectError):
    """The server did not answer in time when you connected.

    `stage` says how far the connection got: whether the server `accepted` it, and `greeted` us.
    """

    stage = ""
    accepted = greeted = False


class AuthenticationError(ConnectError):
    """The server refused this user and password."""


class TlsError(ConnectError):
    """The connection is not as safe as you, or the server, wants it."""


class NotTidbError(ConnectError):
    """You connected to a server that is not TiDB."""


class NotConnectedError(TidbMagicError):
    """You asked for something that needs a cluster before connecting to one."""


class ServerError(TidbMagicError):
    """TiDB answered a statement with an error. `code` is the server's error number."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class RightsError(ServerError):
    """Your user may not do that."""


class DeadlineError(TidbMagicError):
    """The cluster did not answer in time."""


class BusyError(DeadlineError):
    """Another thread used the connection. Nothing was sent."""


class ClosedError(ConnectError):
    """The connection was closed before. Nothing was sent."""


class KillSyntaxError(TidbMagicError):
    """You typed a KILL that TiDB does not accept. `column` is where, counted from 1."""

    def __init__(self, message: str, column: int) -> None:
        super().__init__(f"{message} (column {column})")
        self.problem = message
        self.column = column


class ConnectionIdError(TidbMagicError):
    """You gave something that cannot be a connection id."""


class CopyError(TidbMagicError, PicklingError):
    """You copied or pickled something that works with connections of this process."""


class AuditError(TidbMagicError):
    """The audit file could not be written."""


class TimeLimitError(TidbMagicError):
    """A cell reached the limit of %%tidb_limit and was interrupted."""


class Interrupted(KeyboardInterrupt):
    """You pressed Ctrl-C. Not a TidbMagicError: `except Exception` around a loop must not swallow it."""

    _render_traceback_ = TidbMagicError._render_traceback_
