"""`python -m teacher_server up|scale|roll|status|down`."""

from teacher_server.main import main
from trainer.common.cli import run_main

if __name__ == "__main__":
    run_main(main)
