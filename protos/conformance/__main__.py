"""Checks any teacher against the contract: what docs/wire.md says, asked of a running server.

    python -m protos.conformance HOST:PORT [--json] [--tls DIR --token-file FILE]

It needs no Directory, Ray or torch. The exit status is 0 if nothing failed, else 1.
"""

from __future__ import annotations

import argparse
import sys

from trainer.common.cli import run_main
from trainer.common.command import CommandParser, number
from trainer.security.addresses import check_address, host_of

REMEDY = "Give --tls and --token-file, or --insecure on a network that you trust."


def main(argv: list[str]) -> None:
    """Parse, check, print; leaves with status 1 if a check failed."""
    arguments = parse(argv)
    # Not above: a mistake in the command line must not wait for grpc.
    from protos.conformance.report import as_json, as_text
    from protos.conformance.run import check_teacher
    from trainer.security.channels import ChannelFactory
    from trainer.security.credentials import SecurityFiles, check_host

    files = SecurityFiles(
        tls=arguments.tls, token_file=arguments.token_file, insecure=arguments.insecure
    )
    check_host("address", host_of(arguments.address), files, remedy=REMEDY)
    channels = ChannelFactory(files)
    report = check_teacher(arguments.address, channels, timeout_s=arguments.timeout)
    sys.stdout.write((as_json if arguments.json else as_text)(report) + "\n")
    if report.failed:
        sys.exit(1)


def parse(argv: list[str]) -> argparse.Namespace:
    """The teacher's address, and what protects the way there."""
    parser = CommandParser(
        prog="python -m protos.conformance", description="Checks a teacher against the contract."
    )
    parser.add_argument("address", metavar="HOST:PORT", help="where the teacher listens")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--tls", metavar="DIR", help="folder with ca.pem, client.pem, client.key")
    parser.add_argument("--token-file", metavar="FILE", help="file of the fleet's token")
    parser.add_argument(
        "--insecure", action="store_true", help="allow a host beyond this machine without both"
    )
    parser.add_argument(
        "--timeout", type=number(0.1, 3600), default=10.0, help="seconds of one call"
    )
    arguments = parser.parse_args(argv)
    check_address("address", arguments.address)
    return arguments


if __name__ == "__main__":
    run_main(main)
