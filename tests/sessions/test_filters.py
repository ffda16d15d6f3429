"""Filters: what a session must be like."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.error import UsageError

from tests.clients import LONG_SELECT, Client, eventually, statements
from tidb_magic import Cluster, ProcessList
from tidb_magic.errors import OptionError
from tidb_magic.notebook.magics import TidbMagics
from tidb_magic.playground import Playground
from tidb_magic.sessions.filters import DAY, Filters, seconds

TEXTS = ("user", "host", "db", "instance", "command", "match")


@pytest.fixture
def crowd(playground: Playground, users: dict[str, str], running: Any) -> Iterator[dict[str, Client]]:
    """Three sessions that run something and one that does not."""
    with ExitStack() as stack:
        joe = stack.enter_context(Client(playground, 1, "joe", password=users["joe"], database="test"))
        monitor = stack.enter_context(Client(playground, 2, "monitor", password=users["monitor"]))
        root = stack.enter_context(Client(playground, 1, database="test"))
        idle = stack.enter_context(Client(playground, 2, "joe", password=users["joe"]))
        clients = {"joe": joe, "monitor": monitor, "root": root}
        for name, client in clients.items():
            running(client.start(LONG_SELECT.format(f"crowd {name} 100% a{{2}}b aab")))
        yield clients | {"idle": idle}


def found(cluster: Cluster, crowd: dict[str, Client], **filters: Any) -> set[str]:
    ids = set(cluster.processlist(**filters)["ID"])
    return {name for name, client in crowd.items() if client.id in ids}


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({}, {"joe", "monitor", "root"}),
        ({"idle": True}, {"joe", "monitor", "root", "idle"}),
        ({"user": "joe"}, {"joe"}),
        ({"user": "joe", "idle": True}, {"joe", "idle"}),
        ({"user": "jo"}, set()),
        ({"user": "joe' OR 1 = 1 -- "}, set()),
        ({"db": "test"}, {"joe", "root"}),
        ({"db": "test", "user": "root"}, {"root"}),
        ({"host": "127.0.0.1"}, {"joe", "monitor", "root"}),
        ({"host": "127.0.0"}, set()),
        ({"command": "Query"}, {"joe", "monitor", "root"}),
        ({"command": "Sleep"}, {"idle"}),
        ({"match": "crowd (joe|root)"}, {"joe", "root"}),
        ({"match": r"a\{2\}b"}, {"joe", "monitor", "root"}),
        ({"match": "a{2}b", "user": "joe"}, {"joe"}),
        ({"match": "100%"}, {"joe", "monitor", "root"}),
        ({"where": "INFO LIKE '%crowd joe%'"}, {"joe"}),
        ({"where": "INFO LIKE '%crowd joe%' -- and nothing else"}, {"joe"}),
        ({"where": "USER = 'joe' OR USER = 'root'", "db": "test", "match": "crowd joe"}, {"joe"}),
        ({"min_time": 0}, {"joe", "monitor", "root"}),
        ({"min_time": 3600}, set()),
    ],
)
def test_all_filters_must_hold(
    cluster: Cluster, crowd: dict[str, Client], filters: dict[str, Any], names: set[str]
) -> None:
    assert found(cluster, crowd, **filters) == names


def test_min_time_is_at_least(cluster: Cluster, crowd: dict[str, Client]) -> None:
    mine = "[c]rowd"  # not our own statement, which holds the pattern
    eventually(lambda: cluster.processlist(match=mine)["TIME"].min() >= 1)
    times = cluster.processlist(match=mine)["TIME"]
    assert found(cluster, crowd, min_time=int(times.min()), match=mine) == {"joe", "monitor", "root"}


def test_instance_is_compared_as_the_list_shows_it(playground: Playground, cluster: Cluster, crowd: Any) -> None:
    assert found(cluster, crowd, instance=playground.status_address(2)) == {"monitor"}


def test_the_instances_filter_themselves_and_it_is_one_statement(cluster: Cluster, crowd: dict[str, Client]) -> None:
    asked = statements(cluster)
    listed = cluster.processlist(user="joe")
    assert len(asked) == 1
    assert (listed.matched, listed.hidden) == (1, 1)
    values = {"user": repr("joe"), "limit": 5, "milliseconds": 1000, "info_cut": 16}
    plan = cluster._pool.connection().query(f"EXPLAIN {asked[0] % values}", deadline=5)
    pushed = [row for row in plan.rows if row[2] == "cop[tidb]" and "Selection" in row[0]]
    assert len(pushed) == 1


def test_when_nothing_is_listed_the_idle_ones_are_counted_all_the_same(
    cluster: Cluster, crowd: dict[str, Client]
) -> None:
    listed = cluster.processlist(user="joe", match="nothing like this")
    assert (len(listed), listed.matched, listed.hidden) == (0, 0, 0)
    listed = cluster.processlist(where=f"ID = {crowd['idle'].id}")
    assert (len(listed), listed.matched, listed.hidden) == (0, 0, 1)
    assert "0 sessions on 0 instances" in repr(listed)
    assert "1 idle session hidden (--idle shows it)." in repr(listed)
    assert str(listed["ID"].dtype) == "Int64"


@pytest.mark.parametrize("known", [1, None])  # few sessions, or nothing known of how many: the server sorts and counts
def test_the_limit_leaves_out_the_shortest_and_counts_them(
    cluster: Cluster, crowd: dict[str, Client], known: int | None
) -> None:
    def longest(listed: ProcessList) -> list[int]:
        return sorted(listed["TIME"], reverse=True)[:2]

    before = cluster.processlist()
    cluster._pool.sessions = known
    listed, after = cluster.processlist(limit=2), cluster.processlist()
    assert len(listed) == 2
    assert listed.matched == len(after) > 2
    times = zip(longest(before), listed["TIME"], longest(after), strict=True)
    assert all(earlier <= time <= later for earlier, time, later in times)
    assert f"2 of {listed.matched} sessions" in repr(listed)
    assert f"2 were listed: --limit {listed.matched} lists all." in repr(listed)


@pytest.mark.parametrize(
    ("filters", "says"),
    [
        ({"match": "("}, "match: TiDB does not accept the pattern '('"),
        ({"where": "nosuch = 1"}, "where: TiDB does not accept the condition 'nosuch = 1'. Unknown column 'nosuch'"),
        ({"where": "1 ="}, "where: TiDB does not accept the condition"),
        ({"min_time": -1}, "min_time is a number of seconds"),
        ({"min_time": "60"}, "min_time is a number of seconds"),
        ({"user": 5}, "user is text"),
        ({"limit": 0}, "limit is a whole number"),
        ({"limit": 2.5}, "limit is a whole number"),
        *[({name: "\ud800%"}, f"{name} contains '\\ud800', half of a character") for name in (*TEXTS, "where")],
        *[({name: empty}, f"{name} is empty") for name in (*TEXTS, "where") for empty in ("", "  ")],
    ],
)
def test_a_filter_that_cannot_be_meant_is_one_line_that_names_it(
    cluster: Cluster, filters: dict[str, Any], says: str
) -> None:
    with pytest.raises(OptionError) as refused:
        cluster.processlist(**filters)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400
    assert cluster.processlist().complete  # the connection is still good


def test_half_of_a_character_is_refused_without_a_server() -> None:
    with pytest.raises(OptionError) as refused:
        Filters(user="x\udfff\ud800")
    half = "half of a character (a lone surrogate), which no statement can contain"
    assert str(refused.value) == f"user contains '\\udfff', {half}."


def test_a_mistake_in_the_magic_names_the_option_as_typed(playground: Playground) -> None:
    magics: Any = TidbMagics(None)
    magics.tidb_connect(playground.url(0))
    for line, says in (("--min-time -1", "--min-time is a number"), ("--user ''", "--user is empty")):
        with pytest.raises(UsageError, match=says):
            magics.tidb_ps(line)
    assert len(magics.tidb_ps("--match 'a{2}b' --where \"USER = '$x'\"")) == 0
    magics.close()


@given(st.dictionaries(st.sampled_from(TEXTS), st.text(min_size=1).filter(str.strip)), st.booleans())
def test_values_are_bound_and_never_part_of_the_sql(values: dict[str, str], idle: bool) -> None:
    filters = Filters(**values, idle=idle)  # type: ignore[arg-type]
    fixed = Filters(**dict.fromkeys(values, "x"), idle=idle)  # type: ignore[arg-type]
    assert filters.condition == fixed.condition
    assert {name: filters.parameters[name] for name in values} == values


@given(st.text(min_size=1).filter(str.strip))
def test_a_condition_is_kept_as_it_is(where: str) -> None:
    assert Filters(where=where).condition % () == f"(\n{where}\n)"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"user": 5}, "user is text, not 5."),
        ({"where": b"1"}, "where is text, not b'1'."),
        ({"match": " "}, "match is empty: omit it, or give a value."),
        ({"idle": 1}, "idle is True or False, not 1."),
        *[
            ({"min_time": value}, f"min_time is a number of seconds from 0 on, not {value!r}.")
            for value in (-1, -0.5, True, "60", float("inf"), float("nan"))
        ],
    ],
)
def test_a_filter_of_a_wrong_kind_is_refused_before_anything_is_asked(values: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError) as refused:
        Filters(**values)
    assert str(refused.value) == says


@pytest.mark.parametrize("value", [0, 0.5, 1, 1e9])
def test_min_time_is_any_number_from_0_on(value: float) -> None:
    assert Filters(min_time=value).parameters == {"min_time": value}


def test_a_pattern_that_python_cannot_read_is_the_servers_to_judge() -> None:
    assert Filters(match="(").narrows is True


@pytest.mark.parametrize("value", [0.001, 1, 1.5, DAY])
def test_seconds_are_above_0_and_up_to_a_day(value: float) -> None:
    assert seconds(value, "timeout") == value


@pytest.mark.parametrize("value", [0, -1, DAY + 1, True, "5", None, float("nan")])
def test_other_seconds_are_refused_with_the_name_of_the_option(value: object) -> None:
    with pytest.raises(OptionError) as refused:
        seconds(value, "timeout")
    assert str(refused.value) == f"timeout is a number of seconds above 0 and up to 86400 (a day), not {value!r}."
