"""Starts, scales, shows and stops a fleet of frozen teachers.

    python -m teacher_server up --dialogue DIR --recommendation DIR [--replicas dialogue=2]
    python -m teacher_server scale dialogue=4        # or dialogue=0..4: autoscaled
    python -m teacher_server roll                    # new processes for all replicas, one by one
    python -m teacher_server status [--json | --watch [SECONDS] | --prometheus]
    python -m teacher_server down
    python -m teacher_server certificates --output DIR [--days N]

`up` uses the Ray cluster of --address or RAY_ADDRESS, or starts one on this machine.
"""

from __future__ import annotations

from teacher_server.fleet.options import KEEP, parse, parse_keep


def main(argv: list[str]) -> None:
    """Parse, then run one command; raises UserError for what its user can put right."""
    # Ray is imported after parsing: a mistake in the command line must not wait for it.
    if argv[:1] == [KEEP]:
        keeper = parse_keep(argv[1:])
        from teacher_server.fleet.keeper import keep

        keep(keeper)
        return
    arguments = parse(argv)
    from teacher_server.fleet.commands import run

    run(arguments)
