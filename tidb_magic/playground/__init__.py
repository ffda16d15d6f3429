"""A real TiDB cluster on this machine: PD, a store and several tidb-servers on loopback.

>>> from tidb_magic.playground import Playground
>>> with Playground(instances=3) as cluster:  # doctest: +SKIP
...     print(cluster.url(0))

The servers are built once from Go modules with pinned checksums (`build`), kept in the user's cache folder,
and start in seconds. The same from a shell: ``python -m tidb_magic.playground start``.
"""

try:
    from tidb_magic.playground.cluster import Playground
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"The playground needs {error.name}. Install it with: pip install 'tidb_magic[playground]'", name=error.name
    ) from None
from tidb_magic.playground.errors import PlaygroundError

__all__ = ["Playground", "PlaygroundError"]
