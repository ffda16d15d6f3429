"""The list of the whole cluster."""

import copy
import pickle
import re
from typing import Any

import pandas as pd
import pytest

import tidb_magic
from tests.clients import LONG_SELECT, Client, statements
from tidb_magic import Cluster, ProcessList
from tidb_magic.connection.row_reader import Result
from tidb_magic.playground import Playground
from tidb_magic.sessions.lookup import sessions, unresponsive_instances
from tidb_magic.sessions.processlist import to_frame

LIST = "select * from information_schema.cluster_processlist"
LONGLONG, LONG, DOUBLE, VARCHAR = 8, 3, 5, 253


def answer(recorded: dict[str, Any]) -> Result:
    """Return a recorded answer as the driver would give it."""
    types = dict(zip(recorded["columns"], recorded["mysql_types"], strict=True))
    integers = frozenset(name for name, code in types.items() if code in (LONGLONG, LONG))
    return Result(tuple(types), integers, tuple(zip(*recorded["rows"], strict=True)))


def test_it_lists_every_instance_with_exact_ids(playground: Playground, cluster: Cluster, running: Any) -> None:
    with Client(playground, 0) as one, Client(playground, 1) as two, Client(playground, 2) as three:
        for client in (one, two, three):
            running(client.start(LONG_SELECT.format("everywhere")))
        listed = cluster.processlist()
        rows = listed[listed["INFO"].str.contains("everywhere")]
        assert set(zip(rows["INSTANCE"], rows["ID"], strict=True)) == {
            (client.instance, client.id) for client in (one, two, three)
        }
        assert str(listed["ID"].dtype) == "Int64"
        assert listed.complete
        assert listed.missing == ()


def test_it_is_one_statement(playground: Playground, cluster: Cluster) -> None:
    asked = statements(cluster)
    cluster.processlist()
    assert len(asked) == 1


def test_idle_sessions_are_hidden_and_counted(playground: Playground, cluster: Cluster) -> None:
    with Client(playground, 1) as idle, Client(playground, 2) as holds:
        holds.query("BEGIN")
        holds.query("SELECT * FROM test.numbers WHERE n = 1 FOR UPDATE")
        listed = cluster.processlist()
        everything = cluster.processlist(idle=True)
        assert idle.id not in set(listed["ID"])
        assert holds.id in set(listed["ID"])  # idle in a transaction is not idle
        assert {idle.id, holds.id} <= set(everything["ID"])
        assert listed.matched + listed.hidden == len(everything)
        assert re.search(rf"{listed.hidden} idle sessions? hidden \(--idle shows", repr(listed))
        assert "--idle" not in repr(everything)


def test_without_process_the_list_says_that_only_own_sessions_are_visible(
    playground: Playground, users: dict[str, str]
) -> None:
    for user, sees in (("joe", False), ("monitor", True), ("oncall", False)):
        url = playground.url(0).replace("root", user)
        with Client(playground, 1), tidb_magic.connect(url, password=users[user]) as cluster:
            listed = cluster.processlist(idle=True)
            assert (set(listed["USER"]) == {user}) is not sees
            assert ("Only your own sessions are visible: PROCESS is needed" in repr(listed)) is not sees


def test_own_sessions_are_marked(cluster: Cluster) -> None:
    listed = cluster.processlist()
    assert [number for _, number in listed.own] == [cluster._pool.connection().id]
    assert "1 of them is tidb_magic's own." in repr(listed)


def test_bytes_that_are_no_utf8_do_not_blind_the_list(playground: Playground, cluster: Cluster, running: Any) -> None:
    with Client(playground, 1, charset="latin1") as client:
        client.start("SELECT /* café \xff */ SUM(SLEEP(0.05)) FROM test.numbers")
        running(client)
        listed = cluster.processlist()
        (info,) = listed.loc[listed["ID"] == client.id, "INFO"]
        assert "caf\\xe9 \\xff" in info
        assert cluster.processlist().complete  # the connection is still good


def test_hostile_sql_is_shown_and_not_interpreted(playground: Playground, cluster: Cluster, running: Any) -> None:
    hostile = "<img src=x onerror=alert(1)> \x1b[2J \u202e 👩 ' \" \\\\ &amp;"
    with Client(playground, 1, charset="utf8mb4") as client:
        running(client.start(LONG_SELECT.format(hostile)))
        listed = cluster.processlist()
        (info,) = listed.loc[listed["ID"] == client.id, "INFO"]
        assert info == LONG_SELECT.format(hostile)  # exact in the frame
        assert "<img" not in (listed._repr_html_() or "")
        assert "&lt;img src=x" in (listed._repr_html_() or "")
        for shown in (repr(listed), (listed._repr_html_() or "")):
            assert "\x1b" not in shown
            assert "\u202e" not in shown


def newest(recorded: Any) -> dict[str, Any]:
    """Return the recording of 8.5.6 with the three columns that TiDB's master branch has between MEM and DISK."""
    recording = recorded("8.5.6", LIST)
    at = recording["columns"].index("DISK")
    more = {"MEM_ARBITRATION": DOUBLE, "MEM_WAIT_ARBITRATE_START": VARCHAR, "MEM_WAIT_ARBITRATE_BYTES": LONGLONG}
    values: list[list[Any]] = [[0.5, "", 0], [None, None, None]]
    return {
        "columns": [*recording["columns"][:at], *more, *recording["columns"][at:]],
        "mysql_types": [*recording["mysql_types"][:at], *more.values(), *recording["mysql_types"][at:]],
        "rows": [[*row[:at], *values[n % 2], *row[at:]] for n, row in enumerate(recording["rows"])],
    }


def test_the_21_columns_of_the_next_version_are_read_by_name(recorded: Any) -> None:
    recording = newest(recorded)
    listed = to_frame(answer(recording))
    before = to_frame(answer(recorded("8.5.6", LIST)))
    assert len(recording["columns"]) == 21
    assert list(listed.columns) == [*recording["columns"], "TXN_ID", "TXN_START_TIME"]
    for name in before.columns:
        assert listed[name].equals(before[name]), name
    assert listed["MEM_ARBITRATION"].iloc[0] == 0.5
    assert str(listed["MEM_ARBITRATION"].dtype) == "Float64"
    assert str(listed["MEM_WAIT_ARBITRATE_BYTES"].dtype) == "Int64"


@pytest.mark.parametrize(("version", "columns"), [("6.5", 13), ("8.5.6", 18)])
def test_columns_are_read_by_name_whatever_the_server_has(recorded: Any, version: str, columns: int) -> None:
    recording = recorded(version, LIST)
    listed = to_frame(answer(recording))
    assert list(listed.columns) == [*recording["columns"], "TXN_ID", "TXN_START_TIME"]
    assert len(recording["columns"]) == columns
    at = recording["columns"].index("ID")
    assert [int(number) for number in listed["ID"]] == [row[at] for row in recording["rows"]]
    assert len(sessions(answer(recording), [row[at] for row in recording["rows"]])) == len(recording["rows"])
    for name, code in zip(recording["columns"], recording["mysql_types"], strict=True):
        assert (str(listed[name].dtype) == "Int64") == (code in (LONGLONG, LONG))


def test_a_session_that_a_restarted_instance_lists_twice_is_one_row(recorded: Any) -> None:
    recording = recorded("8.5.6", LIST)
    twice = recording | {"rows": [row for row in recording["rows"] for _ in range(2)]}
    assert len(to_frame(answer(twice))) == len(recording["rows"])
    assert len(sessions(answer(twice), set(to_frame(answer(twice))["ID"]))) == len(recording["rows"])


def test_a_busy_session_that_is_listed_twice_is_one_even_if_the_rows_differ(recorded: Any) -> None:
    """After a restart each session is asked for twice; it can have moved on in between."""
    recording = recorded("8.5.6", LIST)
    columns = recording["columns"]
    first = recording["rows"][0]
    second = list(first)
    second[columns.index("TIME")] += 1
    second[columns.index("INFO")] = "SELECT 2"
    twice = answer(recording | {"rows": [first, second]})
    assert len(to_frame(twice)) == 1
    (session,) = sessions(twice, [first[columns.index("ID")]])
    assert session.info == first[columns.index("INFO")]


def test_a_counter_that_fell_below_zero_is_missing_and_the_row_stays(recorded: Any) -> None:
    recording = recorded("8.5.6", LIST)
    at = recording["columns"].index("MEM")
    rows = [[*row[:at], 2**64 - 4096, *row[at + 1 :]] for row in recording["rows"]]
    listed = to_frame(answer(recording | {"rows": rows}))
    assert listed["MEM"].isna().all()
    assert len(listed) == len(rows)


def test_columns_without_any_value_are_text_all_the_same(recorded: Any) -> None:
    recording = recorded("8.5.6", LIST)
    at = recording["columns"].index("INFO")
    silent_rows = [[*row[:at], None, *row[at + 1 :]] for row in recording["rows"]]
    listed = to_frame(answer(recording | {"rows": silent_rows}))
    assert listed["INFO"].dtype == listed["USER"].dtype
    assert not listed["INFO"].str.contains("x", na=False).any()


@pytest.mark.parametrize(
    "take",
    [
        lambda f: f[f["TIME"] >= 0],
        lambda f: f.query("TIME >= 0"),
        lambda f: f.loc[f["ID"] > 0],
        lambda f: f.head(1),
        lambda f: f.drop_duplicates("ID"),
        lambda f: pd.concat([f, f]),
        lambda f: f.groupby("USER").get_group(f["USER"].iloc[0]),
        lambda f: f.groupby("USER").head(1),
        lambda f: f.set_index("ID", drop=False),
        lambda f: f.merge(pd.DataFrame({"USER": f["USER"].unique()}), on="USER"),
        lambda f: f.assign(note=1),
        copy.deepcopy,
        lambda f: f.iloc[:2],
        lambda f: f.sort_values("TIME"),
        lambda f: f[["ID", "INSTANCE", "INFO"]],
        lambda f: f.copy(),
        lambda f: f.reset_index(drop=True),
        lambda f: pickle.loads(pickle.dumps(f)),
    ],
)
def test_a_slice_stays_a_process_list(recorded: Any, take: Any) -> None:
    listed = to_frame(answer(recorded("8.5.6", LIST)))
    part = take(listed)
    assert type(part) is ProcessList
    assert str(part["ID"].dtype) == "Int64"
    assert set(part["ID"]) <= set(listed["ID"])


@pytest.mark.parametrize(
    "take",
    [
        lambda f: f[["USER", "INFO"]],
        lambda f: f.isna(),
        lambda f: f.astype(str),
        lambda f: f[["ID", "ID", "INSTANCE"]],
        lambda f: pd.concat([f, f], axis=1),
        lambda f: f.T,
        lambda f: f.merge(f, on="ID"),
        lambda f: f.describe(),
        lambda f: f.groupby("USER").size().reset_index(),
        lambda f: f.groupby("USER")[["TIME"]].max(),
    ],
)
def test_what_holds_no_ids_is_a_plain_frame(recorded: Any, take: Any) -> None:
    assert type(take(to_frame(answer(recorded("8.5.6", LIST))))) is pd.DataFrame


def test_a_list_whose_ids_were_renamed_shows_itself_as_pandas_does(recorded: Any) -> None:
    listed = to_frame(answer(recorded("8.5.6", LIST)))
    for changed in (listed.rename(columns={"ID": "id"}), listed.set_index("ID")):
        assert repr(changed) == repr(pd.DataFrame(changed))
        assert "<table" in (changed._repr_html_() or "")


def test_two_ids_that_are_one_float_stay_apart_through_pandas() -> None:
    ids = (5857102839209263511, 5857102839209263513)
    assert float(ids[0]) == float(ids[1])
    columns = ("INSTANCE", "ID", "INFO", "TxnStart")
    listed = to_frame(Result(columns, frozenset({"ID"}), (["a:1"] * 2, ids, ["x"] * 2, [""] * 2)))
    other = pd.DataFrame({"ID": pd.array([ids[1]], dtype="Int64"), "note": ["this one"]})
    merged = listed.merge(other, on="ID", how="outer")
    grown = pd.concat([listed, pd.DataFrame({"INSTANCE": ["b:2"]})])
    for changed in (merged, grown, listed.reindex([1, 0, 7])):
        assert {int(number) for number in changed["ID"].dropna()} == set(ids)


def test_warnings_name_the_silent_instances() -> None:
    assert unresponsive_instances(
        [
            "[127.0.0.1:10081](1) rpc error: code = Unavailable desc = connection error",
            "[[::1]:10082](2) rpc error",
            "something else",
        ]
    ) == ("127.0.0.1:10081", "[::1]:10082")
