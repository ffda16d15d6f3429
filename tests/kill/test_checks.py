"""The pure steps of a kill: by recorded answers, by the ages of statements, and in the order of refusals."""

from collections.abc import Mapping
from dataclasses import replace
from math import ceil, floor
from typing import Any

import pymysql
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.clients import Client
from tests.sessions.test_processlist import LIST, answer
from tidb_magic import Outcome, parse_kill
from tidb_magic.cluster.topology import Capabilities, RouteKind
from tidb_magic.connection.own_sessions import Own
from tidb_magic.kill.checks import (
    GONE,
    LOCKS_STAY,
    NOT_VISIBLE,
    KillContext,
    alternative,
    check,
    is_ddl,
    next_step,
    unverified,
    verify,
    with_job,
)
from tidb_magic.kill.model import ExpectedSession, Target, changed, replaced, same_statement, same_text, until_provable
from tidb_magic.playground import Playground
from tidb_magic.sessions.lookup import Observation, Session, Transaction, sessions

VERSIONS = ["6.5", "8.5.6"]
MINE = "tidb_magic:0123456789abcdef"
NONE_OWN = Own(frozenset(), frozenset(), frozenset(), frozenset(), unique=True)
ABLE = Capabilities(global_kill=True, compatible_kill_query=False, see_others=True, kill_others=True)
SCENE = KillContext(RouteKind.OWNER, ABLE, "8.5.6", NONE_OWN)
NOW = 1000.0  # of the clock


@pytest.fixture(params=VERSIONS)
def listed(request: pytest.FixtureRequest, recorded: Any) -> dict[str, Session]:
    """Sessions that a real server listed: an idle one, one in a transaction, a busy one, and the one that asked."""
    recording = recorded(request.param, LIST)
    found = sessions(answer(recording), [row[1] for row in recording["rows"]])
    by_state = {
        "idle": [one for one in found if not one.runs and not one.txn_start],
        "holds": [one for one in found if not one.runs and one.txn_start],
        "busy": [one for one in found if one.runs and "sleep" in str(one.info)],
        "asked": [one for one in found if one.runs and LIST in str(one.info)],
    }
    assert [len(ones) for ones in by_state.values()] == [1, 1, 1, 1]
    return {name: one for name, (one,) in by_state.items()}


@pytest.fixture
def transaction(request: pytest.FixtureRequest, listed: dict[str, Session], recorded: Any) -> Transaction:
    """Return the transaction of the session that holds one, as the same server listed it."""
    version = next(one for one in VERSIONS if f"[{one}" in request.node.name)
    result = answer(recorded(version, "select * from information_schema.cluster_tidb_trx"))
    at = list(result.by_name["SESSION_ID"]).index(listed["holds"].id)
    assert listed["holds"].txn_start.endswith(f"({result.by_name['ID'][at]})")
    state, keys, size = (result.by_name[name][at] for name in ("STATE", "MEM_BUFFER_KEYS", "MEM_BUFFER_BYTES"))
    return Transaction(state=state, keys=keys, size=size)


def session(**values: Any) -> Session:
    """Return a busy session, but for these values."""
    usual: dict[str, Any] = {
        "instance": "127.0.0.1:10081",
        "id": 3906994178,
        "user": "app",
        "host": "10.0.0.5:49216",
        "command": "Query",
        "time": 7,
        "state": "autocommit",
        "info": "SELECT * FROM orders",
        "txn_start": "",
    }
    return Session(**(usual | values))


def a_look(
    *expected: Session, at: float = NOW, took: float = 0.25, user: str | None = "root", **more: Any
) -> Observation:
    return Observation({one.id: one for one in expected}, user=user, requested=at, received=at + took, **more)


def kill(number: int, *, query: bool = False, expected: ExpectedSession | None = None) -> Target:
    return Target(parse_kill(f"KILL {'QUERY' if query else ''} {number}"), expected)


def whole(one: Session, requested: float | None = None) -> ExpectedSession:
    """Return all that a list shows of a session."""
    return ExpectedSession(one.instance, one.user, one.host, one.runs, one.info, one.txn_start, requested)


def judged(
    one: Session, *, query: bool = False, context: KillContext = SCENE, expected: ExpectedSession | None = None
) -> Target:
    return check(kill(one.id, query=query, expected=expected), a_look(one), context)


# -- on recorded answers ---------------------------------------------------------------------------------------


def test_sessions_are_read_from_what_either_version_lists(listed: dict[str, Session], recorded: Any) -> None:
    ids = {row[1] for version in VERSIONS for row in recorded(version, LIST)["rows"]}
    for one in listed.values():
        assert one.id in ids
        assert (one.user, one.alias, one.matches, one.transaction) == ("root", "", True, None)
        assert one.host.startswith("127.0.0.1:")
        assert one.instance.startswith("127.0.0.1:1008")
    assert (listed["busy"].info, listed["busy"].time) == ("select /* report */ sleep(8)", 1)
    assert (listed["idle"].info, listed["idle"].state) == (None, "autocommit")
    assert listed["holds"].state == "in transaction; autocommit"
    assert listed["holds"].txn_start.startswith("11-24 06:56:")


@pytest.mark.parametrize("version", VERSIONS)
def test_only_the_ids_that_are_sought_are_sessions_and_each_once(recorded: Any, version: str) -> None:
    recording = recorded(version, LIST)
    first, *others = recording["rows"]
    twice = answer(recording | {"rows": [first, *others, first]})
    assert [one.id for one in sessions(twice, [first[1]])] == [first[1]]
    assert len(sessions(twice, [row[1] for row in others] + [first[1], 5])) == len(others) + 1
    elsewhere = [*first]
    elsewhere[0] = "127.0.0.1:9"  # without global kill an id is there on every instance
    assert len(sessions(answer(recording | {"rows": [first, elsewhere]}), [first[1]])) == 2


@pytest.mark.parametrize(("matches", "sends"), [(1, True), (0, False), (None, False)])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_filter_that_is_unknown_for_a_session_does_not_match_it(
    recorded: Any, version: str, matches: int | None, sends: bool
) -> None:
    """INFO RLIKE 'x' is NULL once the statement has ended."""
    recording = recorded(version, LIST)
    looked = recording | {
        "columns": [*recording["columns"], "tidb_magic_matches"],
        "mysql_types": [*recording["mysql_types"], 8],
        "rows": [[*row, matches] for row in recording["rows"]],
    }
    for one in sessions(answer(looked), [row[1] for row in recording["rows"]]):
        assert one.matches is sends
        target = judged(one)
        assert target.outcome is (Outcome.PLANNED if sends else Outcome.CHANGED)


@pytest.mark.parametrize("name", ["idle", "holds", "busy"])
def test_a_session_that_is_as_it_was_seen_may_be_ended(listed: dict[str, Session], name: str) -> None:
    one = listed[name]
    for expected in (None, ExpectedSession(one.instance, one.user, one.host), whole(replace(one, time=0), NOW - 0.5)):
        target = judged(one, expected=expected)
        assert (target.outcome, target.session) == (Outcome.PLANNED, one)
        assert target.reason == "ends the session; by a connection to its instance"
    forwarded = judged(one, context=replace(SCENE, kind=RouteKind.FORWARD))
    assert forwarded.reason == f"ends the session; TiDB forwards it to {one.instance}"


def test_only_a_statement_that_runs_may_be_ended_alone(listed: dict[str, Session]) -> None:
    assert (
        judged(listed["busy"], query=True).reason
        == "ends its statement; the session stays; by a connection to its instance"
    )
    for name in ("idle", "holds"):
        target = judged(listed[name], query=True)
        assert target.outcome is Outcome.REFUSED
        assert target.reason.startswith("it runs no statement now (an older TiDB would end the session)")
        assert "KILL without QUERY ends the session" in target.reason


def test_ending_a_statement_is_said_to_leave_the_locks_of_the_transaction_around_it(
    listed: dict[str, Session], transaction: Transaction
) -> None:
    within = replace(listed["busy"], state="in transaction; autocommit", transaction=replace(transaction, keys=3))
    said = "its transaction of 3 keys stays open: KILL QUERY cannot free its locks"
    assert judged(within, query=True).reason.startswith(f"ends its statement; the session stays; {said}; ")
    assert said not in judged(within).reason
    assert said not in judged(replace(within, state="autocommit"), query=True).reason


def test_what_ending_a_session_rolls_back_is_said_before_and_after(
    listed: dict[str, Session], transaction: Transaction
) -> None:
    holds = replace(listed["holds"], transaction=replace(transaction, keys=12_000, size=2**20))
    assert (transaction.state, transaction.keys) == ("Idle", 1)
    target = judged(holds)
    assert target.reason == (
        f"ends the session; rolls back 12,000 keys (1.0 MiB); {LOCKS_STAY}; by a connection to its instance"
    )
    sent = replace(target, outcome=None, reason="", sent=NOW)
    ended = verify(sent, a_look(at=NOW + 1), ABLE)
    assert (ended.outcome, ended.reason) == (Outcome.KILLED, f"rolled back 12,000 keys (1.0 MiB); {LOCKS_STAY}")
    nothing = replace(holds, transaction=replace(transaction, keys=0))
    assert "rolls back" not in judged(nothing).reason


def test_what_ended_while_it_committed_is_not_called_rolled_back(
    listed: dict[str, Session], transaction: Transaction
) -> None:
    """A commit under way, with the store slow, goes on without its session."""
    committing = replace(listed["holds"], transaction=replace(transaction, keys=1, state="Committing"))
    planned = judged(committing, context=replace(SCENE, force=True))
    assert f"; its transaction is committing: whether that succeeds is not known; {LOCKS_STAY};" in planned.reason
    sent = replace(planned, outcome=None, reason="", sent=NOW)
    ended = verify(sent, a_look(at=NOW + 1), ABLE)
    assert (ended.outcome, ended.reason) == (
        Outcome.KILLED,
        f"its transaction was committing: whether that succeeds is not known; {LOCKS_STAY}",
    )


@pytest.mark.parametrize("name", ["idle", "holds", "busy", "asked"])
def test_each_difference_to_what_was_seen_is_named_and_nothing_is_sent(listed: dict[str, Session], name: str) -> None:
    one = listed[name]
    expected = whole(one, NOW - 0.5)
    assert changed(expected, one) is None
    differences = {
        "INSTANCE": replace(one, instance="127.0.0.1:1"),
        "USER": replace(one, user="somebody"),
        "HOST": replace(one, host="127.0.0.1"),  # a reset connection loses its port
    }
    for column, now in differences.items():
        before, after = (getattr(state, column.lower()) for state in (one, now))
        assert changed(expected, now) == f"its {column} was {before!r} and is {after!r}"
        target = check(kill(one.id, expected=expected), a_look(now), SCENE)
        assert (target.outcome, target.reason) == (Outcome.CHANGED, changed(expected, now))


def test_what_a_session_does_must_be_what_it_did(listed: dict[str, Session]) -> None:
    idle, holds, busy = (listed[name] for name in ("idle", "holds", "busy"))
    works: dict[str, Any] = {"command": "Query", "info": "SELECT 1"}
    sleeps: dict[str, Any] = {"command": "Sleep", "info": None}
    later = "11-24 06:57:00.000(470680435862279999)"
    assert changed(whole(busy), replace(busy, **sleeps)) == "the statement that was seen has ended"
    assert changed(whole(busy), replace(busy, info=None)) == "the statement that was seen has ended"
    assert changed(whole(busy), replace(busy, info=f"{busy.info} ")) == "it runs another statement"
    assert changed(whole(busy), replace(busy, command="Execute", time=0)) is None  # its age is looked at elsewhere
    assert changed(whole(holds), replace(holds, txn_start="")) == "the transaction that was seen has ended"
    assert changed(whole(holds), replace(holds, txn_start=later)) == "the transaction that was seen has ended"
    assert changed(whole(holds), replace(holds, **works)) is None  # at work in the same transaction
    assert changed(whole(idle), replace(idle, **works)) == "it was idle and is active now"
    assert changed(whole(idle), replace(idle, txn_start=later)) == "it was idle and is active now"


SIGNS = st.sampled_from(["a", "b"])
STATES = st.builds(
    session,
    id=st.just(7),
    instance=SIGNS,
    user=SIGNS,
    host=SIGNS,
    command=st.sampled_from(["Query", "Sleep", "Execute"]),
    info=st.none() | SIGNS,
    txn_start=st.just("") | SIGNS,
)


@given(STATES, STATES)
def test_nothing_changed_means_that_session_statement_and_transaction_agree(before: Session, now: Session) -> None:
    agree = (before.instance, before.user, before.host) == (now.instance, now.user, now.host)
    if before.runs:
        agree &= now.runs and now.info == before.info
    elif before.txn_start:
        agree &= now.txn_start == before.txn_start
    else:
        agree &= not now.runs and not now.txn_start
    assert (changed(whole(before), now) is None) == agree
    assert changed(whole(now), now) is None


@given(STATES, STATES, st.sets(st.sampled_from(["instance", "user", "host"])))
def test_what_was_not_seen_is_not_compared(before: Session, now: Session, unseen: set[str]) -> None:
    expected = replace(ExpectedSession(before.instance, before.user, before.host), **dict.fromkeys(unseen))
    names = {"instance", "user", "host"} - unseen
    assert (changed(expected, now) is None) == all(getattr(before, name) == getattr(now, name) for name in names)
    text_unseen = replace(whole(before), info=None, instance=None, user=None, host=None)
    if before.runs:
        assert (changed(text_unseen, now) is None) == now.runs


@pytest.mark.parametrize("fits", range(8))
def test_a_long_statement_is_the_same_as_far_as_a_look_shows_it(fits: int) -> None:
    """A look cuts it after 16 KiB, also within a character, whose bytes then stand as such."""
    text = "SELECT /* " + "x" * (16_374 - fits) + "é\U0001f600 the end */ 1"
    cut = session(info=text.encode()[:16_384].decode(errors="backslashreplace"))
    assert changed(whole(session(info=text)), cut) is None
    assert changed(whole(cut), cut) is None
    for other in ("SELECT /* long */ 1", text.replace("SELECT", "DELETE"), text[:3000], text[1:]):
        assert changed(whole(session(info=other)), cut) == "it runs another statement"
        assert changed(whole(session(info=text)), session(info=other[:16_384])) == "it runs another statement"


def test_a_text_of_4096_characters_may_be_cut_and_a_shorter_one_is_whole() -> None:
    text = "SELECT /* " + "x" * 5000
    assert same_text(text, text[:4096])
    assert not same_text(text, text[:4095])


# -- the age of a statement ------------------------------------------------------------------------------------

MOMENTS = st.integers(0, 2**20).map(lambda ticks: ticks / 1024)  # seconds that sums and differences keep exactly
SPANS = st.one_of(st.integers(0, 8), st.integers(0, 2**14)).map(lambda ticks: ticks / 1024)


def seen_at(moment: float, begun: float, *, sent: float, answered: float, **values: Any) -> tuple[Session, Observation]:
    """Return what a look sees that the server answers at that moment: TIME counts whole seconds."""
    now = session(time=floor(moment - begun), **values)
    return now, Observation({now.id: now}, user="root", requested=moment - sent, received=moment + answered)


@given(requested=MOMENTS, later=SPANS, age=SPANS, sent=SPANS, answered=SPANS)
def test_a_statement_that_began_after_the_request_never_passes_for_the_one_that_was_seen(
    requested: float, later: float, age: float, sent: float, answered: float
) -> None:
    """Whatever the delays of the look are, and also if it began before the look was asked for."""
    begun = requested + later
    now, observation = seen_at(begun + age, begun, sent=min(sent, later + age), answered=answered)
    assert same_statement(requested, now, observation) is not True
    target = check(kill(now.id, expected=whole(now, requested)), observation, SCENE)
    assert target.outcome in {None, Outcome.CHANGED}
    assert not target.proven


@given(
    requested=st.floats(0, 1e7),
    later=st.floats(0, 1e5),
    age=st.floats(0, 1e5),
    sent=st.floats(0, 9),
    back=st.floats(0, 9),
)
def test_nor_does_it_by_rounding(requested: float, later: float, age: float, sent: float, back: float) -> None:
    begun = requested + later
    moment = begun + age
    now, observation = seen_at(moment, begun, sent=sent, answered=back)
    assume(observation.requested >= requested)
    assert same_statement(requested, now, observation) is not True


@given(requested=MOMENTS, before=SPANS, waited=SPANS, sent=SPANS, answered=SPANS)
def test_a_statement_that_began_before_the_request_is_never_called_another_one(
    requested: float, before: float, waited: float, sent: float, answered: float
) -> None:
    begun = requested - before
    now, observation = seen_at(requested + waited + sent, begun, sent=sent, answered=answered)
    assert same_statement(requested, now, observation) is not False
    target = check(kill(now.id, expected=whole(now, requested)), observation, SCENE)
    assert target.outcome in {None, Outcome.PLANNED}


@given(requested=MOMENTS, seconds=st.integers(1, 60), before=st.integers(1, 1023), data=st.data())
def test_a_look_just_before_whole_seconds_have_passed_since_the_request_proves_an_older_statement(
    requested: float, seconds: int, before: int, data: st.DataObject
) -> None:
    asked, expected, received = sorted(data.draw(st.integers(1, before)) for _ in range(3))
    end, tick = requested + seconds, 1 / 1024
    now = session(time=floor(end - expected * tick - (requested - before * tick)))
    observation = a_look(now, at=end - received * tick, took=(received - asked) * tick)
    assert same_statement(requested, now, observation) is True
    assert check(kill(now.id, expected=whole(now, requested)), observation, SCENE).outcome is Outcome.PLANNED


def test_the_best_moment_for_a_look_leaves_it_time_to_be_answered() -> None:
    observation = Observation(requested=6.125, received=6.25)
    assert until_provable(6.0, observation, 0.125) == pytest.approx(0.75 - 3 * 0.125 - 0.01)
    assert until_provable(None, observation, 0.125) == pytest.approx(0.875 - 3 * 0.125 - 0.01)
    assert until_provable(6.0, observation, 0.2) == pytest.approx(0.75 - 3 * 0.2 - 0.01)


@given(age=SPANS, took=SPANS)
def test_the_next_look_is_answered_before_the_second_is_over_if_it_takes_as_long(age: float, took: float) -> None:
    observation = Observation(requested=100 + age, received=100 + age + took)
    pause = until_provable(100.0, observation, took)
    assert 0 < pause <= 1
    if pause > 0.002:
        assert observation.received + pause + took - 100 < ceil(observation.received - 100)
    assert until_provable(None, Observation(requested=5, received=5), 0) > 0


def test_a_statement_of_an_old_list_is_watched_from_the_first_look_on() -> None:
    busy = session(time=7)
    first = check(kill(busy.id, expected=whole(busy)), a_look(busy, took=0.125), SCENE)
    assert (first.outcome, first.expected.requested if first.expected else None) == (None, NOW)
    assert (first.session, first.received) == (busy, NOW + 0.125)
    same = check(first, a_look(replace(busy, time=8), at=NOW + 0.75, took=0.125), SCENE)
    assert (same.outcome, same.proven) == (Outcome.PLANNED, True)
    again = check(first, a_look(replace(busy, time=0), at=NOW + 2), SCENE)
    assert (again.outcome, again.proven) == (Outcome.CHANGED, False)
    assert again.reason == "it began after the list was requested, with the same text: list again"
    once_proven = check(same, a_look(replace(busy, time=0), at=NOW + 2), SCENE)
    assert (once_proven.outcome, once_proven.reason) == (Outcome.CHANGED, again.reason)


def test_a_statement_whose_age_proves_nothing_yet_needs_another_look_and_is_given_up_as_changed() -> None:
    busy = session(time=0)
    doubtful = check(kill(busy.id, expected=whole(busy, NOW)), a_look(busy, at=NOW + 0.25), SCENE)
    assert (doubtful.outcome, doubtful.proven, doubtful.session) == (None, False, busy)
    given_up = unverified(doubtful)
    assert given_up.outcome is Outcome.CHANGED
    assert given_up.reason == ("it may be a later statement with the same text: list again")


@pytest.mark.parametrize("force", [True, False])
def test_a_statement_that_is_not_proven_is_not_sent_a_kill_whatever_else_is_known(force: bool) -> None:
    stranger = session(time=0, info="ALTER TABLE t ADD c INT")
    context = replace(SCENE, able=replace(ABLE, kill_others=False), force=force)
    assert check(kill(stranger.id, expected=whole(stranger, NOW)), a_look(stranger), context).outcome is None


@given(begun=MOMENTS, age=SPANS, answered=SPANS, waited=SPANS, sent=SPANS, more=SPANS)
def test_the_same_statement_is_never_called_replaced(
    begun: float, age: float, answered: float, waited: float, sent: float, more: float
) -> None:
    """The look for the proof is asked for after the answer of the look before; that is all that is known."""
    before, first = seen_at(begun + age, begun, sent=0, answered=answered)
    now, observation = seen_at(first.received + waited + sent, begun, sent=sent, answered=more)
    assert not replaced(before, first.received, now, observation)
    target = replace(kill(now.id, query=True), session=before, received=first.received, sent=first.received)
    assert verify(target, observation, ABLE).outcome is None


@given(STATES, STATES, st.integers(0, 20), st.integers(0, 20), SPANS)
def test_replaced_is_what_runs_another_text_or_nothing_or_is_younger_than_it_would_be(
    before: Session, now: Session, age: int, later: int, waited: float
) -> None:
    assume(before.runs)
    before, now = replace(before, time=age), replace(now, time=later)
    another = not now.runs or (now.user, now.info) != (before.user, before.info)
    younger = later < age + floor(waited)
    assert replaced(before, NOW, now, a_look(now, at=NOW + waited)) == (another or younger)


# -- whether it may be sent ------------------------------------------------------------------------------------

REFUSALS: dict[str, tuple[Outcome | None, str]] = {
    "own": (Outcome.REFUSED, "it is a connection of tidb_magic itself"),
    "blind": (Outcome.REFUSED, "this connection is missing from its own list"),
    "host": (Outcome.CHANGED, "its HOST was '10.0.0.5:1' and is '10.0.0.5:49216'"),
    "filter": (Outcome.CHANGED, "it does not match the filters any more"),
    "younger": (Outcome.CHANGED, "it began after the list was requested, with the same text: list again"),
    "doubtful": (None, ""),
    "rights": (Outcome.REFUSED, "it is app's session, and root has neither CONNECTION_ADMIN nor SUPER"),
    "protected": (
        Outcome.REFUSED,
        "security-enhanced mode may protect app: killing its sessions requires RESTRICTED_CONNECTION_ADMIN",
    ),
    "version": (Outcome.REFUSED, "KILL QUERY within a transaction can crash TiDB before 8.5.5 (it is 8.5.4)"),
    "better": (Outcome.REFUSED, "it runs DDL, whose job a KILL does not end"),
}


@pytest.mark.parametrize("force", [True, False])
def test_of_several_reasons_against_a_kill_the_first_in_this_order_is_said(force: bool) -> None:
    """And none but the last gives way to force."""
    against = list(REFUSALS)
    while against:
        now = session(
            info="ALTER TABLE t ADD c INT" if "better" in against else "UPDATE t SET c = 1",
            state="in transaction" if "version" in against else "autocommit",
            time=0 if {"younger", "doubtful"} & {*against} else 9,
            matches="filter" not in against,
            alias=MINE if "own" in against else "",
        )
        requested = NOW - 9 if "younger" in against else NOW if "doubtful" in against else NOW - 0.5
        expected = whole(now, requested)
        expected = replace(expected, host="10.0.0.5:1") if "host" in against else expected
        context = KillContext(
            RouteKind.OWNER,
            replace(ABLE, kill_others="rights" not in against),
            "8.5.4",
            replace(NONE_OWN, aliases=frozenset({MINE})),
            force=force,
            protected=frozenset({"app"} if "protected" in against else ()),
        )
        observation = a_look(now, user=None if "blind" in against else "root")
        target = check(kill(now.id, query=True, expected=expected), observation, context)
        if force and against == ["better"]:
            assert target.outcome is Outcome.PLANNED
            assert "; although it runs DDL" in target.reason
        else:
            outcome, reason = REFUSALS[against[0]]
            assert target.outcome is outcome
            assert target.reason.startswith(reason)
            assert ("--force" in target.reason) == (against == ["better"])
        del against[0]
    assert judged(session(), query=True).outcome is Outcome.PLANNED


def test_rights_come_before_what_a_session_runs() -> None:
    idle = session(command="Sleep", info=None)
    context = replace(SCENE, able=replace(ABLE, kill_others=False))
    assert "neither CONNECTION_ADMIN nor SUPER" in judged(idle, query=True, context=context).reason
    assert "runs no statement" in judged(idle, query=True).reason


def test_a_right_is_needed_for_others_sessions_only() -> None:
    context = replace(SCENE, able=replace(ABLE, kill_others=False), protected=frozenset({"app", "root"}), force=True)
    assert judged(session(user="root"), context=context).outcome is Outcome.PLANNED
    assert judged(session(), context=context).outcome is Outcome.REFUSED
    assert judged(session(user=""), context=context).reason.startswith(
        "it is internal work of TiDB itself, and root has"
    )


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("query", [True, False])
def test_own_sessions_are_known_by_id_alias_or_address_and_never_ended(query: bool, force: bool) -> None:
    now = session(alias=MINE)
    key = (now.instance, now.id)
    known = [
        Own(frozenset({key}), frozenset({now.id}), frozenset(), frozenset(), unique=True),
        Own(frozenset({key}), frozenset({now.id}), frozenset(), frozenset(), unique=False),
        Own(frozenset({(None, now.id)}), frozenset({now.id}), frozenset(), frozenset(), unique=False),
        Own(frozenset({("moved", now.id)}), frozenset({now.id}), frozenset(), frozenset(), unique=True),
        replace(NONE_OWN, aliases=frozenset({MINE})),
        replace(NONE_OWN, opening=frozenset({(now.host, ("127.0.0.1", 4000))})),
    ]
    for own in known:
        context = replace(SCENE, own=own, force=force)
        target = judged(now, query=query, context=context)
        assert (target.outcome, target.reason) == (Outcome.REFUSED, "it is a connection of tidb_magic itself")
    namesake = Own(frozenset({("elsewhere", now.id)}), frozenset({now.id}), frozenset(), frozenset(), unique=False)
    assert judged(now, context=replace(SCENE, own=namesake)).outcome is Outcome.PLANNED


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize(
    ("version", "safe"),
    [
        *((version, False) for version in (None, "", "None", "nightly", "8.5", "6.5.3", "v7.5.6", "8.5.4", "8.4.99")),
        *((version, True) for version in ("8.5.5", "v8.5.5", "8.5.6", "8.5.10", "8.10.0", "9.0.0", "v8.5.6-20260101")),
    ],
)
def test_a_kill_of_a_statement_within_a_transaction_needs_a_version_that_it_cannot_crash(
    version: str | None, safe: bool, force: bool
) -> None:
    context = replace(SCENE, version=version, force=force)
    within = session(state="in transaction; autocommit", txn_start="11-24 06:56:11.667(470680435862274061)")
    target = judged(within, query=True, context=context)
    assert target.outcome is (Outcome.PLANNED if safe else Outcome.REFUSED)
    assert ("can crash TiDB before 8.5.5" in target.reason) == (not safe)
    assert judged(within, context=context).outcome is Outcome.PLANNED  # the whole session
    assert judged(session(), query=True, context=context).outcome is Outcome.PLANNED  # no transaction


DDL = [
    "ALTER TABLE t ADD c INT",
    "alter table t drop c",
    "CREATE INDEX i ON t (c)",
    "Create Unique Index i ON t (c)",
    "DROP TABLE t",
    "TRUNCATE t",
    "RENAME TABLE t TO u",
    "RECOVER TABLE t",
    "FLASHBACK CLUSTER TO TIMESTAMP '2026-01-01'",
    " \n\t\v\fALTER TABLE t ADD c INT",
    "/* nightly */ ALTER TABLE t ADD c INT",
    "/**//***//* a * b / c */ALTER TABLE t ADD c INT",
    "/* two\nlines */\n-- why\n# who\nALTER TABLE t ADD c INT",
    "--\nALTER TABLE t ADD c INT",
    "--\n--\n#\nALTER TABLE t ADD c INT",
    "--\tx\r\nALTER TABLE t ADD c INT",
    "; ALTER TABLE t ADD c INT",
    ";;/* x */; ALTER TABLE t ADD c INT",
    "/*! ALTER TABLE t ADD c INT */",
    "/*!ALTER TABLE t ADD c INT */",
    "/*!40101 ALTER */ TABLE t ADD c INT",
    "/*!40101 ALTER TABLE t ADD c INT */;",
    "/*T! ALTER TABLE t ADD c INT */",
    "/*T![auto_rand] ALTER TABLE t AUTO_RANDOM_BASE = 7 */",
    "/*T![auto_rand,ttl] ALTER TABLE t AUTO_RANDOM_BASE = 7 */",
    "/* x */ /*!40101 /* y */ ALTER TABLE t ADD c INT */",
    "/*M! ignored */ ALTER TABLE t ADD c INT",
    "/*+ ignored */ ALTER TABLE t ADD c INT",
]
NO_DDL = [
    "SELECT 'x', create_time FROM t",
    "SELECT 'ALTER TABLE t'",
    "SELECT /* ALTER TABLE t */ 1",
    "SELECT * FROM t -- DROP TABLE t",
    "/* ALTER TABLE t */ SELECT 1",
    "-- ALTER TABLE t\nSELECT 1",
    "# DROP TABLE t\nSELECT 1",
    "--\n-- ALTER TABLE t\nSELECT 1",
    "/* x\nALTER TABLE t */ SELECT 1",
    "(SELECT * FROM t) UNION (SELECT 'create')",
    "SELECT TRUNCATE(1.5, 0)",
    "INSERT INTO t SELECT * FROM created",
    "UPDATE t SET c = 'drop table t'",
    "DELETE FROM t WHERE c = '\nALTER TABLE t'",
    "WITH create_them AS (SELECT 1) SELECT * FROM create_them",
    "CREATED",
    "DROP_ALL",
    "EXPLAIN ANALYZE SELECT 1",
    "SHOW CREATE TABLE t",
    "ADMIN SHOW DDL JOBS",
    "ANALYZE TABLE t",
    "",
    "/* never closed ALTER TABLE t",
]


@pytest.mark.parametrize("text", DDL)
def test_ddl_is_known_behind_whatever_tidb_skips_and_needs_force(text: str) -> None:
    busy = session(info=text)
    assert is_ddl(busy)
    for query in (True, False):
        refused = judged(busy, query=query)
        assert refused.outcome is Outcome.REFUSED
        assert "ADMIN SHOW DDL JOBS, then ADMIN CANCEL DDL JOBS" in refused.reason
        forced = judged(busy, query=query, context=replace(SCENE, force=True))
        assert forced.outcome is Outcome.PLANNED
        assert "although it runs DDL" in forced.reason


def test_tidb_itself_reads_each_of_these_as_ddl(playground: Playground) -> None:
    with Client(playground) as client:
        for text in DDL:
            if not text.startswith("FLASHBACK"):
                with pytest.raises(pymysql.Error, match="No database selected"):
                    client.query(text)


@pytest.mark.parametrize("text", NO_DDL)
def test_what_only_speaks_of_ddl_is_usual_work(text: str) -> None:
    assert not is_ddl(session(info=text))
    assert alternative(session(info=text)) is None
    assert judged(session(info=text)).outcome is Outcome.PLANNED


def test_a_session_whose_ddl_has_ended_is_usual() -> None:
    assert not is_ddl(session(info=None))
    assert not is_ddl(session(command="Sleep", info="ALTER TABLE t ADD c INT"))


INTERNAL = (
    "it is internal work of TiDB itself, as auto analyze is:"
    " SHOW ANALYZE STATUS, and SET GLOBAL tidb_enable_auto_analyze = OFF starts no more"
)
COMMITS = "its transaction is committing and may have committed (or waits for a lock in autocommit mode)"
COMMITTING = Transaction(state="Committing", keys=3, size=100)
BETTER: Mapping[str, tuple[dict[str, Any], str]] = {
    "DDL": (
        {"info": "CREATE INDEX i ON t (c)"},
        "it runs DDL, whose job a KILL does not end: ADMIN SHOW DDL JOBS, then ADMIN CANCEL DDL JOBS",
    ),
    "IMPORT INTO": (
        {"info": "/* x */ import\n into t FROM 's3://b/*.csv'"},
        "it runs IMPORT INTO, whose job a KILL may leave behind: SHOW IMPORT JOBS, then CANCEL IMPORT JOB",
    ),
    "internal work": ({"user": "", "info": "analyze table `t`", "command": "Query"}, INTERNAL),
    "auto analyze": ({"user": "", "info": "analyze table `t`", "command": "Sleep"}, INTERNAL),
    "committing": ({"info": "COMMIT", "transaction": COMMITTING}, COMMITS),
    "committing in autocommit mode": ({"command": "Sleep", "info": None, "transaction": COMMITTING}, COMMITS),
}


@pytest.mark.parametrize("name", BETTER)
def test_what_is_better_than_a_kill_is_named_and_force_sends_it_all_the_same(name: str) -> None:
    values, instead = BETTER[name]
    one = session(**values)
    assert alternative(one) == instead
    refused, forced = judged(one), judged(one, context=replace(SCENE, force=True))
    assert (refused.outcome, refused.reason) == (
        Outcome.REFUSED,
        f"{instead}; --force sends the KILL anyway",
    )
    assert forced.outcome is Outcome.PLANNED
    assert forced.reason.endswith(f"although {instead}")


@pytest.mark.parametrize("state", ["Idle", "Running", "LockWaiting", "RollingBack"])
def test_no_other_work_needs_force(state: str) -> None:
    for info in ("IMPORT", "IMPORTS INTO t", "SELECT 'import into'", "INSERT INTO t VALUES (1)", "LOAD DATA", "COMMIT"):
        assert alternative(session(info=info, transaction=Transaction(state=state, keys=3, size=100))) is None


DDL_JOB = "it runs DDL, whose job a KILL does not end: ADMIN"


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (
            judged(session(info="ALTER TABLE t ADD i INT")),
            f"{DDL_JOB} CANCEL DDL JOBS 42; --force sends the KILL anyway",
        ),
        (kill(7).ended(Outcome.REFUSED, "no right"), "no right"),
        (kill(7).ended(Outcome.KILLED), "its DDL job 42 is running"),
        (kill(7).ended(Outcome.STILL_RUNNING, "sent"), "sent; its DDL job 42 is running"),
    ],
)
def test_the_ddl_job_is_named_where_a_kill_was_refused_for_it_or_sent(target: Target, reason: str) -> None:
    assert with_job(target, 42, "running") == replace(target, reason=reason)


def test_without_a_known_ddl_job_it_is_said_how_to_find_it() -> None:
    refused = judged(session(info="ALTER TABLE t ADD i INT"))
    assert refused.reason.startswith(f"{DDL_JOB} SHOW DDL JOBS, then ADMIN CANCEL DDL JOBS; ")


@pytest.mark.parametrize("text", ["select Benchmark(9, 1)", "SELECT get_lock ('a', 9)", "SELECT SLEEP\n(9) FROM t"])
def test_a_function_that_tidb_does_not_interrupt_is_named_however_it_is_written(text: str) -> None:
    assert next_step(session(info=text), query=True).startswith("TiDB does not interrupt ")
    assert next_step(session(info="SELECT benchmarks (1)"), query=True).startswith("if its client does not read")


# -- who is not there ------------------------------------------------------------------------------------------


def test_an_absent_session_is_gone_after_two_looks_some_time_apart() -> None:
    first = check(kill(7), a_look(at=NOW), SCENE)
    assert (first.outcome, first.absent) == (None, NOW)
    soon = check(first, a_look(at=NOW + GONE - 0.01), SCENE)
    assert (soon.outcome, soon.absent) == (None, NOW)
    gone = check(soon, a_look(at=NOW + GONE + 0.01), SCENE)
    assert (gone.outcome, gone.reason) == (Outcome.ALREADY_GONE, "no session has this id")
    assert check(replace(kill(7), absent=0.0), a_look(at=GONE), SCENE).outcome is Outcome.ALREADY_GONE


def test_one_that_is_seen_in_between_was_only_hidden() -> None:
    """COM_CHANGE_USER hides a session for a moment."""
    unproven_yet = whole(session(time=0), NOW)
    hidden = check(kill(3906994178, expected=unproven_yet), a_look(at=NOW), SCENE)
    there = check(hidden, a_look(session(time=0), at=NOW + 0.3), SCENE)
    assert (there.outcome, there.absent) == (None, None)
    again = check(there, a_look(at=NOW + 0.6), SCENE)
    assert (again.outcome, again.absent) == (None, NOW + 0.6)


@given(st.lists(st.tuples(st.booleans(), SPANS), min_size=1, max_size=12))
def test_nobody_is_called_gone_who_was_seen_within_that_time(looks: list[tuple[bool, float]]) -> None:
    target, at, absent = kill(3906994178, expected=ExpectedSession(runs=True, requested=None)), NOW, None
    for there, later in looks:
        at += later
        now = session(time=0)
        target = check(target, a_look(*([now] if there else []), at=at), SCENE)
        absent = None if there else at if absent is None else absent
        gone = absent is not None and at - absent >= GONE
        assert (target.outcome is Outcome.ALREADY_GONE) == gone
        if target.outcome is not None:
            return


def test_without_process_who_is_not_seen_is_not_called_gone() -> None:
    blind = replace(SCENE, able=replace(ABLE, see_others=False), force=True)
    for target in (kill(7), replace(kill(7), absent=NOW - 10)):
        verdict = check(target, a_look(), blind)
        assert (verdict.outcome, verdict.reason) == (Outcome.REFUSED, NOT_VISIBLE)
        assert "without PROCESS other users' sessions are not visible" in verdict.reason


def test_who_may_be_where_nobody_answered_is_unreachable_and_not_gone() -> None:
    unresponsive_instances = ("127.0.0.1:10081", "127.0.0.1:10082")
    for able in (ABLE, replace(ABLE, see_others=False)):
        for target in (kill(7), replace(kill(7), absent=NOW - 10)):
            verdict = check(target, a_look(missing=unresponsive_instances), replace(SCENE, able=able))
            assert verdict.outcome is Outcome.UNREACHABLE
            assert "127.0.0.1:10081, 127.0.0.1:10082 did not answer" in verdict.reason
    there = session()
    assert check(kill(there.id), a_look(there, missing=unresponsive_instances), SCENE).outcome is Outcome.PLANNED


# -- the proof -------------------------------------------------------------------------------------------------


def sent(one: Session, *, query: bool) -> Target:
    """Return a target whose KILL left right after the look that saw it."""
    return replace(kill(one.id, query=query), session=one, received=NOW, sent=NOW)


@pytest.mark.parametrize("name", ["idle", "holds", "busy"])
def test_a_session_is_killed_once_a_look_does_not_find_it(listed: dict[str, Session], name: str) -> None:
    one = listed[name]
    target = sent(one, query=False)
    still = verify(target, a_look(one, at=NOW + 0.1), ABLE)
    assert still.outcome is None
    ended = verify(still, a_look(at=NOW + 0.2), replace(ABLE, see_others=False))
    assert (ended.outcome, ended.reason) == (Outcome.KILLED, "")


def test_a_look_that_not_everybody_answered_or_that_is_blind_proves_nothing(listed: dict[str, Session]) -> None:
    for query in (True, False):
        target = sent(listed["busy"], query=query)
        unresponsive_instances = a_look(at=NOW + 9, missing=("127.0.0.1:10081",))
        assert verify(target, unresponsive_instances, ABLE) == target
        assert verify(target, a_look(at=NOW + 9, user=None), ABLE) == target
        assert verify(replace(target, session=None), a_look(at=NOW + 9), ABLE).outcome is None


def test_a_statement_is_interrupted_once_its_session_does_something_else(listed: dict[str, Session]) -> None:
    busy = replace(listed["busy"], time=5)
    target = sent(busy, query=True)
    for now in (
        replace(busy, command="Sleep", info=None, time=0),
        replace(busy, info=None),
        replace(busy, info="select /* report */ sleep(9)"),
        replace(busy, user="somebody"),
        replace(busy, time=0),
        replace(busy, time=6),
    ):
        ended = verify(target, a_look(now, at=NOW + 2), ABLE)
        assert (ended.outcome, ended.reason) == (Outcome.INTERRUPTED, "")
    for now in (replace(busy, time=7), replace(busy, time=8), replace(busy, time=7, state="killed")):
        assert verify(target, a_look(now, at=NOW + 2), ABLE).outcome is None


def test_a_session_that_vanishes_after_kill_query_is_killed_only_after_two_looks(listed: dict[str, Session]) -> None:
    target = sent(listed["busy"], query=True)
    first = verify(target, a_look(at=NOW + 0.1), ABLE)
    assert (first.outcome, first.absent) == (None, NOW + 0.1)
    back = verify(first, a_look(replace(listed["busy"], time=3), at=NOW + 0.3), ABLE)
    assert (back.outcome, back.absent) == (None, None)
    soon = verify(first, a_look(at=NOW + 0.1 + GONE / 2), ABLE)
    assert soon.outcome is None
    for able, outcome, says in (
        (ABLE, Outcome.KILLED, "its whole session ended"),
        (replace(ABLE, see_others=False), Outcome.INTERRUPTED, "its session is not visible any more"),
    ):
        ended = verify(soon, a_look(at=NOW + 0.2 + GONE), able)
        assert ended.outcome is outcome
        assert ended.reason.startswith(says)
