# SPDX-License-Identifier: MIT
"""`python -m worker`: the daemon's entry point; everything is in worker/cli.py."""

import os
import signal

from worker.huge_pages import ask_for_huge_pages

# Until the daemon catches it, Ctrl-C ends the process without a traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)
if __name__ == "__main__":
    # Before the imports below: it may start the process anew.
    ask_for_huge_pages()
# gRPC's core writes to stderr what we say in a sentence of our own; read once, when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# It has no call for "TLS 1.3 and nothing older". This is the one suite that it may agree on with TLS 1.2, and it needs
# an RSA key, which no member of a cluster has; those of TLS 1.3 are always allowed.
os.environ["GRPC_SSL_CIPHER_SUITES"] = "ECDHE-RSA-AES128-GCM-SHA256"

from worker.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
