"""What a traceback with locals shows of the library."""

import traceback


def with_locals(error: BaseException) -> str:
    """Return the traceback below the test itself, the values of all variables in it, causes and contexts included."""
    frames = error.__traceback__
    below = frames.tb_next if frames else None
    shown = traceback.TracebackException(type(error), error, below, capture_locals=True, lookup_lines=True)
    return "".join(shown.format())
