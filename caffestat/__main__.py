"""`python -m caffestat`, and what the `caffestat` command runs."""

import sys

__all__ = ["run"]


def run() -> None:
    """Run the command. Ctrl-C while modules are imported ends it as it does later."""
    try:
        from caffestat.cli import main

        main(prog_name="caffestat")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    run()
