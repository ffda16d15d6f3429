"""TLS as it is asked for: with verification, unless a person says otherwise."""

import ssl
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal

from tidb_magic.errors import SettingsError

OPTIONS = (
    "ssl",
    "ssl_ca",
    "ssl_capath",
    "ssl_cert",
    "ssl_check_hostname",
    "ssl_disabled",
    "ssl_key",
    "ssl_key_password",
    "ssl_mode",
    "ssl_verify_cert",
    "ssl_verify_identity",
    "ssl_verify_server_cert",
)
_FILES = {"ssl_ca": "certificate", "ssl_capath": "certificate", "ssl_cert": "certificate", "ssl_key": "key"}
# Whether it asks for TLS, as MySQL's clients take it. REQUIRED verifies here.
_MODES = {"DISABLED": False, "PREFERRED": False, "REQUIRED": True, "VERIFY_CA": True, "VERIFY_IDENTITY": True}
_WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_CLOUD = ".tidbcloud.com"  # wants TLS, with a certificate that the system's own list of CAs verifies


def context(options: Mapping[str, str], host: str) -> ssl.SSLContext | Literal[False] | None:
    """Return how to use TLS with that host, None if it is not given: then it is used where a server offers it.

    False is TLS switched off.

    `options` are named as PyMySQL and MySQL's clients name them. Where TLS is asked for, the certificate and the host's
    name are verified, by the system's list of CAs if no file is given; ``ssl_verify_cert=false`` and
    ``ssl_verify_identity=false`` switch that off. TiDB Cloud gets TLS without being asked.

    Raises
    ------
    SettingsError
        A file cannot be read, or an option has no such value.

    Examples
    --------
    >>> context({}, "db.example.com") is None
    True
    >>> context({"ssl_mode": "REQUIRED"}, "db.example.com").verify_mode.name
    'CERT_REQUIRED'
    """
    given = {name: value for name, value in options.items() if value}
    files = {name: str(Path(given[name]).expanduser()) for name in _FILES if name in given}
    mode = given.get("ssl_mode", "PREFERRED").upper()
    if "ssl_key" in files and "ssl_cert" not in files:
        raise SettingsError("ssl_key requires ssl_cert, the certificate of this key.")
    if mode not in _MODES:
        raise SettingsError(f"ssl_mode is one of {', '.join(_MODES)}, not {given['ssl_mode']!r}.")
    on = _switch(given, "ssl")
    verify = _switch(given, "ssl_verify_cert", "ssl_verify_server_cert")
    identity = _switch(given, "ssl_verify_identity", "ssl_check_hostname")
    asked = bool(files or on or verify or identity or _MODES[mode])
    cloud = f".{host}".endswith(_CLOUD)
    if mode == "DISABLED" or on is False or _switch(given, "ssl_disabled"):
        if asked or cloud:
            why = "TiDB Cloud requires it" if cloud else "also asked for"
            raise SettingsError(f"TLS is disabled, but {why}.")
        return False
    if not (asked or cloud):
        return None
    made = _context(files)
    # Certificates that MySQL's and TiDB's own tools make do not pass the strict test, which Python has from 3.13 on.
    made.verify_flags &= ~ssl.VERIFY_X509_STRICT
    made.check_hostname = identity if identity is not None else verify is not False and mode != "VERIFY_CA"
    if verify is False and not made.check_hostname:
        made.verify_mode = ssl.CERT_NONE
    if "ssl_cert" in files:
        _load_certificate(made, files, given.get("ssl_key_password"))
    return made


@cache
def unverified_context() -> ssl.SSLContext:
    """Return how to use TLS where a server offers it and it was not required: nothing is verified."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    return made


def verifies(used: ssl.SSLContext | Literal[False] | None) -> bool:
    """Tell whether a server's certificate, and the name in it, is verified."""
    return isinstance(used, ssl.SSLContext) and used.verify_mode is ssl.CERT_REQUIRED and used.check_hostname


def _context(files: Mapping[str, str]) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=files.get("ssl_ca"), capath=files.get("ssl_capath"))
    except OSError as error:
        raise _unreadable(error, files, "ssl_ca", "ssl_capath") from None


def _load_certificate(made: ssl.SSLContext, files: Mapping[str, str], password: str | None) -> None:
    problem = None
    try:
        made.load_cert_chain(files["ssl_cert"], files.get("ssl_key"), password or "")
    except OSError as error:
        problem = _unreadable(error, files, "ssl_cert", "ssl_key")
    del password  # a traceback with locals must not show it
    if problem:
        raise problem


def _unreadable(error: OSError, files: Mapping[str, str], *names: str) -> SettingsError:
    """Return what is wrong with these files. An SSLError is an OSError that knows no file."""
    given = [name for name in names if name in files]
    for name in given:
        if not Path(files[name]).exists():
            return SettingsError(f"{name}: there is no file {files[name]}.")
    named = " and ".join(f"{files[name]} ({name})" for name in given)
    kinds = " or ".join(dict.fromkeys(_FILES[name] for name in given))
    why = f"no {kinds} in PEM format" if isinstance(error, ssl.SSLError) else str(error.strerror)
    return SettingsError(f"Cannot use {named}: {why}.")


def _switch(given: Mapping[str, str], *names: str) -> bool | None:
    """Return what the first of these options that is given says."""
    for name in names:
        if name in given:
            if given[name].lower() not in _WORDS:
                raise SettingsError(f"{name} is true or false, not {given[name]!r}.")
            return _WORDS[given[name].lower()]
    return None
