# SPDX-License-Identifier: MIT
"""What lies where in the store. The models' folder has one for each model, called by its identity:

    parts/NAME       the model's files, under their own names, full of holes
    index            which tensors are here (index.py)
    claims/TENSOR    a tensor that is being fetched, or that a fetch broke off in (claim.py)
    use              locked by whoever uses the model; its time of change is when that was last (use.py)
    model.json       what the files are (about.py)

Beside them lie models that are being made known (draft.py) or deleted, and the lock of who does either.
"""

PARTS_FOLDER = "parts"
INDEX_FILE = "index"
CLAIMS_FOLDER = "claims"
USE_FILE = "use"
ABOUT_FILE = "model.json"

DRAFT_PREFIX = ".draft-"
GONE_PREFIX = ".gone-"
LOCK_FILE = ".lock"
