# SPDX-License-Identifier: MIT
"""`python -m worker`: the daemon's entry point; everything is in worker/cli.py."""

from worker.cli import main

if __name__ == "__main__":
    main()
