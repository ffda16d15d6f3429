"""Running the code of a cell inside a cell magic."""

import ast
from typing import Any

from tidb_magic.errors import OptionError

_NAME = "<cell>"


def run(shell: Any, cell: str) -> Any:
    """Execute a cell in the user's namespace, and return the value of its last line if that is an expression.

    Raises
    ------
    OptionError
        The cell awaits something.
    SyntaxError
    """
    tree = ast.parse(shell.transform_cell(cell), _NAME)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    try:
        body = compile(tree, _NAME, "exec")
        value = compile(ast.Expression(last.value), _NAME, "eval") if isinstance(last, ast.Expr) else None
    except SyntaxError as error:
        if "outside" in str(error.msg):  # await, async with, async for
            raise OptionError("This magic does not run asynchronous cells.") from None
        raise
    exec(body, shell.user_ns)  # noqa: S102 (what the person typed)
    return None if value is None else eval(value, shell.user_ns)  # noqa: S307
