"""The reader of lock waits: waits for locks, and DDL that waits for transactions, joined to the sessions."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import pandas as pd

from tidb_magic.cluster import topology
from tidb_magic.cluster.pool import Pool
from tidb_magic.connection.connection import Connection
from tidb_magic.connection.deadline import DEADLINE, Deadline, hint
from tidb_magic.connection.row_reader import Result
from tidb_magic.display.frame import TEXT, values_of
from tidb_magic.errors import ConnectError, DeadlineError, ServerError, TidbMagicError
from tidb_magic.kill.model import same_text
from tidb_magic.locks.lock_forest import LockForest
from tidb_magic.locks.lock_waits import Waits, ask_stores
from tidb_magic.locks.model import DDL_QUEUE, LOCK, METADATA_LOCK, LockNode, OpenTransaction, Party, Unlisted, Wait
from tidb_magic.locks.wait_graph import grow
from tidb_magic.queries import fragment, query
from tidb_magic.sessions.lookup import GRACE, Session
from tidb_magic.sessions.processlist import OURS, ProcessList, to_columns
from tidb_magic.sessions.reader import ALL, read_also

_MICROSECONDS = 1_000_000
_WAITING = {"LockWaiting", "Committing"}  # so is a waiter in autocommit mode shown (8.5.6, measured)
_NO_PROCESS = (
    "Lock waits are not visible without PROCESS: only those of your own sessions that wait within a transaction are"
    " listed, not in autocommit mode."
)
_DEADLOCK = ("INSTANCE", "DEADLOCK_ID", "OCCUR_TIME", "RETRYABLE", "TRY_LOCK_TRX_ID", "TRX_HOLDING_LOCK", "KEY_INFO")
_DEADLOCK_COLUMNS = (*_DEADLOCK, "KEY", "CURRENT_SQL_DIGEST")


def locks(pool: Pool, *, deadline: float = DEADLINE) -> LockForest:
    """Read the lock waits. PD, the stores and the list of the sessions each have the deadline.

    Raises
    ------
    DeadlineError, ConnectError
        No instance answered.
    ServerError, Interrupted
    """
    if not pool.monitor.degraded:
        _update_members(pool, deadline)
    waits = ask_stores(pool, deadline=deadline)
    listed, besides = read_also(pool, None, _besides, limit=ALL, deadline=deadline)
    remarks = waits.remarks
    if waits.denied:
        with suppress(TidbMagicError):
            pool.refresh(within=deadline)
        listed.see_others = pool.capabilities.see_others
        remarks = (_NO_PROCESS, *remarks)
    listed.remarks = (*listed.remarks, *remarks)
    complete, listed.complete = listed.complete, listed.complete and waits.known
    forest = LockForest(lock_nodes(listed, besides, waits, complete=complete), listed, _deadlocks(besides))
    forest.heard = waits.heard - set(listed.missing)
    return forest


def _update_members(pool: Pool, within: float) -> None:
    """Update the registered instances: an autocommit waiter is visible only on its own instance."""
    connection = pool.connection(within=within)
    try:
        pool.update_members(topology.instances(connection, deadline=within))
    except DeadlineError:
        pool.topology.note_pd_unresponsive()
        pool.monitor.note_degraded()
    except ConnectError:  # it was lost while it was not used; opening it again asks the same
        pool.connection(within=within)


def _besides(connection: Connection, instance: str | None, due: Deadline) -> list[Result]:
    """Ask for transactions and deadlocks, of one instance or of the cluster."""
    left = due.left
    cluster, grace = ("CLUSTER_", GRACE) if instance is None else ("", 0)
    parts = {"hint": f"{fragment('server_deadline')} " if instance is None else ""}
    args = {"milliseconds": hint(left), "instance_name": instance}
    transactions = query("transactions", transactions=f"{cluster}TIDB_TRX", **parts)
    results = [connection.query(transactions, args, deadline=left + grace, leave=True)]
    name = "INSTANCE" if instance is None else "%(instance_name)s"
    deadlocks = query("deadlocks", deadlocks=f"{cluster}DEADLOCKS", instance=name, **parts)
    with suppress(ServerError):  # no PROCESS
        results.append(connection.query(deadlocks, args, deadline=due.left + grace, leave=True))
    return results


def lock_nodes(
    listed: ProcessList, besides: Sequence[Sequence[Result]], asked: Waits, *, complete: bool
) -> list[LockNode]:
    """Join the results, and return the nodes of the forest."""
    open_ones = {number: one for results in besides for number, one in _transactions(results[0])}
    owners: dict[int, Party] = {}
    sessions: dict[Party, Session] = {}
    for session, number in _sessions(listed):
        sessions[session.instance, session.id] = session
        if number is not None:
            owners[number] = session.instance, session.id
    held = {owners[number]: one for number, one in open_ones.items() if number in owners}
    why, ended = (
        "it has ended and its locks stay for a while, or it is TiDB's own work",
        "no session waits for its end any more",
    )
    if not complete:
        why = ended = "no responding instance has it"

    def party(number: int) -> Party:
        return owners.get(number) or Unlisted(f"transaction {number}", why)

    def waits_for(waiter: int, holder: int, what: str, user_lock: str | None) -> list[Wait]:
        if user_lock is not None:
            return _user_lock_waits(user_lock, party(waiter), sessions)
        transaction, session_ = open_ones.get(waiter), sessions.get(party(waiter))
        if transaction is not None and transaction.state not in _WAITING:
            return []  # it went on in between
        return [Wait(party(waiter), party(holder), LOCK, what, _since(transaction, session_))]

    found = [wait for one in _lock_waits(asked.waits) if one[0] != one[1] for wait in waits_for(*one)]
    if asked.jobs is not None:
        found += _ddl_waits(asked.jobs, sessions, held, ended)
    found = list(dict.fromkeys(found))  # TiDB waits for a user-level lock by one transaction after the other
    found.sort(key=lambda wait: -(wait.seconds or 0))
    alone = [(one, one) for one, transaction in held.items() if transaction.state == "LockWaiting"]
    waits: dict[Party, list[Wait]] = {}
    holds: dict[Party, list[Wait]] = {}
    for wait in found:
        waits.setdefault(wait.waiter, []).append(wait)
        holds.setdefault(wait.holder, []).append(wait)
    return [
        LockNode(
            branch,
            sessions.get(branch.name),
            held.get(branch.name),
            tuple(sorted(waits.get(branch.name, ()), key=lambda wait, above=branch.above: wait.holder != above)),
            tuple(holds.get(branch.name, ())),
        )
        for branch in grow([*((wait.waiter, wait.holder) for wait in found), *alone])
    ]


def _sessions(listed: ProcessList) -> Iterator[tuple[Session, int | None]]:
    """Return each session of a list, with its transaction."""
    names = ("INSTANCE", "ID", "USER", "HOST", "COMMAND", "TIME", "STATE", "INFO", "TxnStart", "TXN_ID")
    for row in zip(*(values_of(listed, name) for name in names), strict=True):
        yield Session(*row[:-1]), row[-1]


def _transactions(result: Result) -> Iterator[tuple[int, OpenTransaction]]:
    columns = ("ID", "STATE", "MEM_BUFFER_KEYS", "MEM_BUFFER_BYTES", "RELATED_TABLE_IDS")
    found = (result.by_name[name] for name in (*columns, f"{OURS}age", f"{OURS}waits_since"))
    for number, state, keys, size, tables, age, since in zip(*found, strict=True):
        waits = None if since is None else max(age - since, 0) / _MICROSECONDS
        ids = frozenset((tables or "").split(",")) - {""}
        yield number, OpenTransaction(state, keys or 0, size or 0, max(age, 0) / _MICROSECONDS, waits, ids)


def _lock_waits(results: Sequence[Result]) -> list[tuple[int, int, str, str | None]]:
    """Return each wait once: every instance lists those of the whole cluster, and its own twice.

    The last value is the name of a user-level lock.
    """
    rows = (row for result in results for row in result.rows)
    return list(
        dict.fromkeys((waiter, holder, locked(info, key), _user_lock(info)) for waiter, holder, info, key in rows)
    )


def _user_lock(info: str | None) -> str | None:
    """Return the name of the lock if it is one of GET_LOCK, which TiDB keeps as rows of a table (8.5.6, measured).

    >>> _user_lock('{"db_name":"mysql","table_name":"advisory_locks","index_values":["nightly"]}')
    'nightly'
    """
    known = _key_info(info)
    names = known.get("index_values")
    table = known.get("db_name"), known.get("table_name")
    return str(names[0]) if table == ("mysql", "advisory_locks") and isinstance(names, list) and names else None


def _user_lock_waits(name: str, waiter: Party, sessions: Mapping[Party, Session]) -> list[Wait]:
    """Return which sessions wait for a user-level lock, as far as their statements tell; its waiter is TiDB's own."""
    asks = re.compile(rf"GET_LOCK\s*\(\s*(['\"]){re.escape(name)}\1", re.IGNORECASE)
    lock = f"user-level lock {name}"
    holder = Unlisted(lock, "held by GET_LOCK of a session that TiDB does not name", lasting=True)
    waiters = {
        one: session.time for one, session in sessions.items() if session.runs and asks.search(session.info or "")
    }
    return [Wait(one, holder, LOCK, lock, float(seconds)) for one, seconds in waiters.items()] or [
        Wait(waiter, holder, LOCK, lock)
    ]


def _since(transaction: OpenTransaction | None, session: Session | None) -> float | None:
    """Return the seconds that a session waits for a lock, in autocommit mode those that its statement runs."""
    if transaction is not None and transaction.waits is not None:
        return transaction.waits
    return float(session.time) if session is not None and session.runs else None


def locked(info: str | None, key: str) -> str:
    """Return in words what is locked, from KEY_INFO or else the KEY.

    >>> locked('{"db_name":"shop","table_name":"stock","handle_type":"int","handle_value":"1","table_id":112}', "74")
    'shop.stock row 1'
    >>> locked('{"db_name":"a","table_name":"b","index_name":"by_name","index_values":["x","2"],"index_id":1}', "74")
    'a.b index by_name (x, 2)'
    >>> locked(None, "7480000000000000FF")
    'key 7480000000000000FF'
    """
    known = _key_info(info)
    if not {"table_name", "table_id"} & known.keys():
        return f"key {key}"
    table = (
        f"{known.get('db_name', '')}.{known['table_name']}" if "table_name" in known else f"table {known['table_id']}"
    )
    if "partition_name" in known:
        table += f" partition {known['partition_name']}"
    if "handle_value" in known:
        return f"{table} row {known['handle_value']}"
    if "index_name" in known:
        return f"{table} index {known['index_name']} ({', '.join(map(str, known.get('index_values') or ()))})"
    return f"{table} index {known['index_id']}" if "index_id" in known else table


def _key_info(info: str | None) -> dict[str, Any]:
    """Return what KEY_INFO says; nothing if it is not as it is on 8.5.6."""
    try:
        known = json.loads(info or "")
    except ValueError:
        return {}
    return known if isinstance(known, dict) else {}


def _ddl_waits(
    jobs: Result, sessions: Mapping[Party, Session], held: Mapping[Party, OpenTransaction], ended: str
) -> Iterator[Wait]:
    """Return which DDL waits for which transactions, and for which other DDL.

    A job waits for the transactions that have used the table and are older than its step. Those that are younger than
    the statement do not hold it up while an older one does, although mysql.tidb_mdl_view lists them (8.5.6, measured);
    within one second the two cannot be distinguished.
    """
    free = {one: session for one, session in sessions.items() if session.runs}
    waiting: list[tuple[Party, frozenset[str], int]] = []
    for number, tables, locked_tables, database, table, text in jobs.rows:
        alike = (one for one, session in free.items() if same_text(text or "", session.info or ""))
        ddl = next(alike, None) or Unlisted(f"DDL job {number}", ended)
        session = free.pop(ddl, None)
        since = float(session.time) if session is not None else None
        ids = frozenset((tables or "").split(","))
        if locked_tables is None:
            before = [one for one in waiting if one[1] & ids]
            behind = f"(as DDL job {number})"
            yield from (
                Wait(ddl, other, DDL_QUEUE, f"DDL job {job} {behind}", since, number) for other, _, job in before[-1:]
            )
            continue
        holders = {
            one: it for one, it in held.items() if one != ddl and it.tables & frozenset(locked_tables.split(","))
        }
        older = [one for one, it in holders.items() if since is None or it.age >= since + 1]
        for holder in older or holders:
            yield Wait(ddl, holder, METADATA_LOCK, f"{database}.{table} (DDL job {number})", since, number)
        waiting.append((ddl, ids, number))


def _deadlocks(besides: Sequence[Sequence[Result]]) -> pd.DataFrame:
    parts = [to_columns(results[1], _DEADLOCK_COLUMNS) for results in besides if len(results) > 1]
    if not parts:
        return pd.DataFrame(columns=[*_DEADLOCK_COLUMNS, "LOCK"])
    frame = pd.concat([pd.DataFrame(part) for part in parts], ignore_index=True)
    keys = zip(frame["KEY_INFO"], frame["KEY"], strict=True)
    frame["LOCK"] = pd.array([locked(info, key) for info, key in keys], dtype=TEXT)
    frame["OCCUR_TIME"] = pd.to_datetime(frame["OCCUR_TIME"], unit="ms", utc=True).dt.as_unit("ms")
    return frame.sort_values(["OCCUR_TIME", "INSTANCE", "DEADLOCK_ID"], ignore_index=True)
