"""URLs, and passwords that show no value."""

import copy
import pickle
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tracebacks import with_locals
from tidb_magic.connection.settings import Secret, Settings, parse_url
from tidb_magic.connection.sources import find
from tidb_magic.errors import SettingsError

PLANTED = "planted-s3cret"


@given(st.text(min_size=1), st.text(), st.integers(0, 65535))
def test_a_url_gives_back_what_was_put_in(user: str, password: str, port: int) -> None:
    settings = parse_url(f"mysql://{quote(user, safe='')}:{quote(password, safe='')}@db.example.com:{port}/shop")
    assert (settings.user, settings.port, settings.database) == (user, port, "shop")
    assert settings.password is not None
    assert settings.password.reveal() == password.encode()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "db.example.com",
        "postgres://root@db",
        "mysql://",
        "mysql://root@",
        f"mysql://root:{PLANTED}@db:port",
        f"mysql://root:{PLANTED}@db:99999",
        f"mysql://root:{PLANTED}@[::1",
        f"mysql://root:{PLANTED}@db/shop?unix_socket=/tmp/tidb.sock",
        f"mysql://root:{PLANTED}/4000@db#x",
        f"mysql://ro\ud800ot:{PLANTED}@db",
        f"mysql://root:{PLANTED}\ud800@db",
        f"mysql://root:{PLANTED}@db\ud800",
        f"mysql://root:{PLANTED}@db/\ud800",
        f"mysql://root:{PLANTED}@db/?ssl_ca=\ud800",
    ],
)
def test_a_bad_url_is_one_clear_line_without_the_password(url: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse_url(url)
    assert refused.value.__context__ is None
    assert PLANTED not in with_locals(refused.value)
    assert "mysql://user@host:4000/database" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_spaces_around_a_url_are_not_part_of_it() -> None:
    assert parse_url(" mysql://root@db:4001/shop\n") == parse_url("mysql://root@db:4001/shop")
    assert find("\tmysql://root@db:4001/shop ") == parse_url("mysql://root@db:4001/shop")


def test_a_secret_shows_no_value() -> None:
    secret = Secret(PLANTED)
    shown = [repr(secret), str(secret), f"{secret}", f"{secret!s:>20}", repr(Settings("db", password=secret))]
    assert not any(PLANTED in text for text in shown)
    assert copy.deepcopy(secret).reveal() == PLANTED.encode()
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(secret)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(Settings("db", password=secret))
