"""Connection ids."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidb_magic import ConnectionId
from tidb_magic.errors import ConnectionIdError


@given(st.integers(1, 2**11 - 1), st.integers(0, 2**20 - 1))
def test_a_32_bit_id_names_its_server(server: int, local: int) -> None:
    number = ConnectionId(server << 21 | local << 1)
    assert (number.bits, number.server_id, number.defect) == (32, server, None)


@given(st.integers(1, 2**22 - 1), st.integers(0, 2**40 - 1))
def test_a_64_bit_id_names_its_server(server: int, local: int) -> None:
    number = ConnectionId(server << 41 | local << 1 | 1)
    assert (number.bits, number.server_id, number.defect) == (64, server, None)


@pytest.mark.parametrize(
    ("number", "server_id"),
    [
        (3149922310, 1502),  # measured, TiDB 8.5.6
        (9047217079945527301, 4114198),  # measured, TiDB 8.5.6
        (5857102839209263511, 2663502),  # TiDB's documentation
        (5857102839209263513, 2663502),
        (8306449708033769879, 3777336),
    ],
)
def test_ids_of_real_clusters(number: int, server_id: int) -> None:
    assert ConnectionId(number).server_id == server_id


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (1, "low half"),
        (101, "low half"),
        (2**32 - 1, "low half"),
        (0, "server id is 0"),
        (102, "server id is 0"),
        (2**32, "neither"),
        (2**32 + 1, "server id is 0"),
        (2**63, "below 2^63"),
        (2**64 - 1, "below 2^63"),
    ],
)
def test_an_id_that_cannot_be_right_says_why(number: int, says: str) -> None:
    assert says in (ConnectionId(number).defect or "")


@given(st.integers(0, 2**64 - 1))
def test_an_id_stays_the_number_it_was(number: int) -> None:
    assert ConnectionId(number) == ConnectionId(str(number)) == number
    assert str(ConnectionId(number)) == str(number)


@pytest.mark.parametrize("bad", [-1, 2**64, 5.0, 1e18, True, None, "", "5 ", "-5", "0x10", "1e3", "٣", b"5"])
def test_what_is_no_id_is_refused(bad: object) -> None:
    with pytest.raises(ConnectionIdError):
        ConnectionId(bad)  # type: ignore[arg-type]


IDS_64 = st.builds(
    lambda server, local: server << 41 | local << 1 | 1, st.integers(2**12, 2**22 - 1), st.integers(0, 2**40 - 1)
)


@given(IDS_64, st.lists(IDS_64, max_size=3))
def test_an_id_that_a_float_rounded_is_traced_to_those_that_round_to_it(number: int, others: list[int]) -> None:
    rounded = ConnectionId(int(float(number)))
    said = rounded.mistaken_for([*others, number])
    assert (said is None) if rounded == number else (said is not None and str(number) in said and "float" in said)
    assert ConnectionId(number).mistaken_for([one for one in others if int(float(one)) != number]) is None


@given(IDS_64)
def test_the_low_half_of_an_id_is_traced_to_it(number: int) -> None:
    said = ConnectionId(number % 2**32).mistaken_for([number])
    assert said == f"it is the low half of {number}, which is listed"


def test_several_ids_that_one_may_be_made_of_are_all_named() -> None:
    low, high = 2**60 + 1, 2**60 + 3
    said = ConnectionId(2**60).mistaken_for([low, high])
    assert said == f"a float has rounded it; listed are {low} and {high}, which round to it"
    said = ConnectionId(0).mistaken_for([2**32, 7, 2**33])
    assert said == f"it is the low half of {2**32} and {2**33}, which are listed"
    assert ConnectionId(9).mistaken_for([9, 7]) is None
