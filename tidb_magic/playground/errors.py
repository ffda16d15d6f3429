"""The one error of the playground."""


class PlaygroundError(Exception):
    """The playground could not do what was asked; the message says why and what helps."""

    def _render_traceback_(self) -> list[str]:
        """Show one line in a notebook instead of a traceback (IPython asks for this by name)."""
        return [f"{type(self).__name__}: {self}"]
