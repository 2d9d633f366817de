"""`python -m caffestat`."""

from caffestat.cli import main

main(prog_name="caffestat")
