"""``python -m benchmarks.what_kill_ends [NAME ...]``: how long KILL QUERY and KILL take to end kinds of statements.

Each statement runs for half a second (or longer where that says more) before it is killed. The table is that of
docs/explanation/what-kill-ends.md.
"""

import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import pymysql

import tidb_magic
from benchmarks.crowd import query
from tidb_magic import Cluster
from tidb_magic.playground import Playground

ROWS = 17  # doublings of one row: 131,072
TIMEOUT = 10.0  # seconds for each KILL
PAIRS = "FROM test.t AS a, test.t AS b"
FILE = Path(tempfile.gettempdir()) / "tidb_magic-what-kill-ends.csv"
LARGE = f"SELECT a.id {PAIRS} WHERE b.id <= 100 ORDER BY SHA1(a.pad)"
# {scope} is another name for each KILL: the job of the first one goes on.
STATEMENTS = {
    "cross join of `INFORMATION_SCHEMA` tables": (
        "SELECT COUNT(*) FROM INFORMATION_SCHEMA.COLUMNS a, INFORMATION_SCHEMA.COLUMNS b, INFORMATION_SCHEMA.COLUMNS c"
    ),
    "cross join of tables": f"SELECT COUNT(*) {PAIRS} WHERE a.id + b.id < 0",
    "hash join": f"SELECT /*+ HASH_JOIN(a, b) */ COUNT(*) {PAIRS} WHERE a.part = b.part",
    "`GROUP BY` of 131,072 groups": f"SELECT COUNT(*) FROM (SELECT a.id, COUNT(*) {PAIRS} GROUP BY a.id) AS x",
    "window function": (
        f"SELECT COUNT(*) FROM (SELECT ROW_NUMBER() OVER (ORDER BY a.part) AS n {PAIRS} WHERE b.id < 400) AS x"
    ),
    "`ORDER BY` of 13 million rows": LARGE,
    "the same, after 8 s": LARGE,
    "recursive CTE": (
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 1e9) SELECT MAX(n) FROM c"
    ),
    "`INSERT ... SELECT`": f"INSERT INTO test.sink SELECT a.id, b.id {PAIRS}",
    "`UPDATE` with `SHA2` of 40 KB for each row": "UPDATE test.t SET pad = LEFT(SHA2(REPEAT(pad, 2500), 512), 16)",
    "`DELETE` with `SHA2` of 200 KB for each row": (
        "DELETE FROM test.t WHERE SHA2(REPEAT(pad, 12500), 512) = 'x'"  # none
    ),
    "`LOAD DATA LOCAL INFILE`, 3 million rows": (
        f"LOAD DATA LOCAL INFILE '{FILE}' INTO TABLE test.sink FIELDS TERMINATED BY ','"
    ),
    "`EXPLAIN ANALYZE`": f"EXPLAIN ANALYZE SELECT COUNT(*) {PAIRS} WHERE a.id + b.id < 0",
    "`ANALYZE TABLE`": "ANALYZE TABLE test.wide",
    "`ADMIN CHECK TABLE`": "ADMIN CHECK TABLE test.wide",
    "`JSON_EXTRACT` of 10 KB for each row": (
        f"SELECT COUNT(JSON_EXTRACT(JSON_ARRAY(REPEAT(a.pad, 600), b.id), '$[1]')) {PAIRS}"
    ),
    "`REGEXP` on 10 KB for each row": f"SELECT COUNT(*) {PAIRS} WHERE REPEAT(a.pad, 600) REGEXP '(x|y)+z$'",
    "`UUID()` for each row": f"SELECT COUNT(DISTINCT UUID()) {PAIRS}",
    "`REPEAT` to 1 MB for each row": f"SELECT SUM(LENGTH(REPEAT(a.pad, 65536))) {PAIRS}",
    "`CLUSTER_LOG`": (
        "SELECT COUNT(*) FROM INFORMATION_SCHEMA.CLUSTER_LOG"
        " WHERE TIME BETWEEN '2020-01-01' AND '2040-01-01' AND MESSAGE LIKE '%'"
    ),
    "`SHOW STATS_HISTOGRAMS`": "SHOW STATS_HISTOGRAMS",
    "`SELECT SLEEP(100)`": "SELECT SLEEP(100)",
    "`SELECT SLEEP(1) FROM t`, 131,072 rows": "SELECT SLEEP(1) FROM test.t",
    "`SELECT SLEEP(1) FROM INFORMATION_SCHEMA.COLUMNS`": "SELECT SLEEP(1) FROM INFORMATION_SCHEMA.COLUMNS",
    "`BENCHMARK()` of about 10 s": "SELECT BENCHMARK(60000000, SHA1('x'))",
    "`GET_LOCK()` that waits": "SELECT GET_LOCK('what_kill_ends', 60)",
    "DDL (`CREATE INDEX`)": "CREATE INDEX {scope} ON test.wide (b, c, id)",
    "`IMPORT INTO`": f"IMPORT INTO test.empty_{{scope}} FROM '{FILE}'",
    "`BACKUP DATABASE` (BR)": "BACKUP DATABASE test TO 'local:///tmp/tidb_magic-backup'",
}
# Seconds that a statement runs before it is killed.
USUAL = 0.5
SECONDS = {
    "the same, after 8 s": 8.0,
    "`ADMIN CHECK TABLE`": 0.1,
    "`CLUSTER_LOG`": 0.05,
    "`SHOW STATS_HISTOGRAMS`": 0.0,
    "DDL (`CREATE INDEX`)": 0.2,
    "`IMPORT INTO`": 0.2,
    "`BACKUP DATABASE` (BR)": 0.2,
}


class Session:
    """A session that runs one statement in a thread."""

    def __init__(self, playground: Playground, instance: int = 1) -> None:
        self.driver = pymysql.connect(
            host="127.0.0.1", port=playground.port(instance), user="root", autocommit=True, local_infile=True
        )
        query(self.driver, "SET cte_max_recursion_depth = 1000000000")
        self.id = int(query(self.driver, "SELECT CONNECTION_ID()")[0][0])
        self.error = ""
        self.ended = threading.Event()

    def run(self, statement: str) -> None:
        """Run a statement, and note its end."""
        try:
            query(self.driver, statement)
        except Exception as error:  # noqa: BLE001 (PyMySQL's LOAD DATA raises AttributeError when its connection is lost)
            self.error = str(error.args[-1] if error.args else error)[:60]
        self.ended.set()


def prepare(playground: Playground) -> None:
    """Create the tables and the file."""
    session = Session(playground, 0)
    for statement in (
        "CREATE TABLE test.t (id INT PRIMARY KEY AUTO_INCREMENT, part INT, pad VARCHAR(16)) AUTO_ID_CACHE 1",
        "INSERT INTO test.t (part, pad) VALUES (1, 'abcdefgh12345678')",
        *["INSERT INTO test.t (part, pad) SELECT id % 8, pad FROM test.t"] * ROWS,
        *[f"CREATE TABLE test.{name} (a BIGINT, b BIGINT)" for name in ("sink", "empty_query", "empty_connection")],
        "CREATE TABLE test.wide (id INT, b INT, c VARCHAR(16), KEY (id), KEY (b), KEY (c))",
        *[f"INSERT INTO test.wide SELECT id + {n}, id % 1000, pad FROM test.t" for n in range(4)],
    ):
        query(session.driver, statement)
    FILE.write_text("".join(f"{n},{n}\n" for n in range(3_000_000)))


def measure(playground: Playground, cluster: Cluster, statement: str, seconds: float, *, is_query: bool) -> str:
    """Return how long a KILL of this statement took, or what happened instead."""
    session = Session(playground)
    statement = statement.replace("{scope}", "query" if is_query else "connection")
    threading.Thread(target=session.run, args=(statement,), daemon=True).start()
    if session.ended.wait(seconds):
        return f"ended before: {session.error}" if session.error else "ended before the KILL"
    report = cluster.kill([session.id], query=is_query, timeout=TIMEOUT, deadline=10).iloc[0]
    outcome, reason, took = report["OUTCOME"], report["REASON"], report["SECONDS"]
    client = session.ended.wait(TIMEOUT)
    if outcome in {"interrupted", "killed"}:
        said = "" if session.error else ": without an error"
        return f"{took:.2f} s{said}" + ("" if client else ", and its client got no answer")
    if outcome == "still running":
        return f"not within {TIMEOUT:g} s ({reason})"
    return f"{outcome}: {reason}"


def main(names: list[str]) -> None:
    """Print the table."""
    with Playground(instances=2) as playground, tidb_magic.connect(playground.url(0)) as cluster:
        prepare(playground)
        holder = Session(playground, 0)
        query(holder.driver, "SELECT GET_LOCK('what_kill_ends', 1)")
        print("| statement | KILL QUERY | KILL |\n|---|---|---|", flush=True)
        for name, statement in STATEMENTS.items():
            if names and not any(one in name for one in names):
                continue
            cells = []
            for is_query in (True, False):
                cells.append(measure(playground, cluster, statement, SECONDS.get(name, USUAL), is_query=is_query))
                _quiet(cluster)
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
    with suppress(FileNotFoundError):
        FILE.unlink()


def _quiet(cluster: Cluster) -> None:
    """End what still runs, a DDL job too, so that the next statement is alone."""
    for _ in range(60):
        left = cluster.processlist(where="INFO NOT LIKE '%tidb_magic%'", deadline=30)
        if not len(left):
            return
        cluster.kill(left, force=True, timeout=1, deadline=10)
        time.sleep(0.5)


if __name__ == "__main__":
    main(sys.argv[1:])
