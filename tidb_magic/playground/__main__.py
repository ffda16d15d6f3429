"""``python -m tidb_magic.playground``: a real TiDB cluster on this machine, from a shell."""

import argparse
import sys
import time

from tidb_magic.playground.build import build
from tidb_magic.playground.cluster import find, obtain, running
from tidb_magic.playground.errors import PlaygroundError
from tidb_magic.playground.records import DEFAULT, Options
from tidb_magic.playground.workload import PASSWORD, USERS


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    main = argparse.ArgumentParser(
        prog="python -m tidb_magic.playground",
        description="A real TiDB cluster on this machine: PD, a store and several tidb-servers on loopback.",
        allow_abbrev=False,
    )
    commands = main.add_subparsers(dest="command", required=True)
    start = commands.add_parser(
        "start", help="start a cluster (the first time: build it, about 6 minutes)", allow_abbrev=False
    )
    start.add_argument("--instances", type=int, default=3, metavar="N", help="tidb-servers (default: 3)")
    start.add_argument(
        "--port", type=int, help="SQL port of the first instance, the others follow (default: free ones)"
    )
    start.add_argument("--global-kill", choices=("on", "off"), default="on", help="enable-global-kill (default: on)")
    start.add_argument("--compatible-kill-query", action="store_true", help="compatible-kill-query = true")
    start.add_argument("--connection-ids", type=int, choices=(32, 64), default=32, help="bits of ids (default: 32)")
    start.add_argument("--sem", action="store_true", help="security-enhanced mode")
    start.add_argument("--tls", action="store_true", help="TLS, with a CA of its own")
    start.add_argument(
        "--workload", action="store_true", help="a small realistic crowd of sessions, renewed until stopped"
    )
    stop = commands.add_parser("stop", help="end a cluster and remove its data", allow_abbrev=False)
    stop.add_argument("--all", action="store_true", help="every playground of this user, tests' too")
    commands.add_parser("status", help="what runs", allow_abbrev=False)
    commands.add_parser("build", help="build the servers, start nothing", allow_abbrev=False)
    for command in (start, stop):
        command.add_argument("--name", default=DEFAULT, help="which playground (default: %(default)s)")
    return main


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit status."""
    options = parser().parse_args(arguments)
    try:
        match options.command:
            case "build":
                for path in build().values():
                    print(path)
            case "start":
                _start(options)
            case "stop":
                _stop(options)
            case "status":
                _status()
    except PlaygroundError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; what was started is ended.", file=sys.stderr)
        return 130
    return 0


def _start(options: argparse.Namespace) -> None:
    given = {name: value for name, value in vars(options).items() if name not in {"command", "name"}}
    wanted = Options(**given | {"global_kill": options.global_kill == "on"})
    build()
    began = time.monotonic()
    playground = obtain(wanted, options.name)
    print(f"{playground.name} runs, after {time.monotonic() - began:.1f} s.")
    if playground.options != wanted:
        raise PlaygroundError(
            f"A playground named {options.name} runs with other options. Stop it first, or give another --name."
        )
    for url in playground.urls():
        print(url)
    if options.workload:
        for user, rights in USERS.items():
            print(f"mysql://{user}@127.0.0.1:{playground.port(0)}  password {PASSWORD}: {rights}")
    suffix = "" if options.name == DEFAULT else f" --name {options.name}"
    print(f"Stop it with: python -m tidb_magic.playground stop{suffix}")


def _stop(options: argparse.Namespace) -> None:
    named = find(options.name)
    stopping = list(running()) if options.all else [named] if named else []
    for playground in stopping:
        playground.stop()
        print(f"Stopped {playground.name}.")
    if not stopping:
        others = ", ".join(one.name for one in running())
        print(
            f"No playground {'runs' if options.all else f'named {options.name} runs'}."
            + (f" Running: {others}." if others else "")
        )


def _status() -> None:
    found = False
    for playground in running():
        found = True
        states = playground.status()
        print(f"{playground.name}  ({playground.folder})")
        for server, state in states.items():
            url = playground.url(int(server.removeprefix("tidb-"))) if server.startswith("tidb-") else ""
            print(f"  {server:<10}{state:<9}{url}".rstrip())
    if not found:
        print("No playground runs. Start one with: python -m tidb_magic.playground start")


if __name__ == "__main__":
    sys.exit(main())
