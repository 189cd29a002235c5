# SPDX-License-Identifier: MIT
"""What of models is here for other workers to ask for: tensors of the store, and files that were found to be the model.

Files are given as they are: whoever asks compares with the hash. Called on threads of the weights port.
"""

import contextlib
from collections.abc import Iterator

from worker.weights.files import LocalFiles
from worker.weights.giver import Find
from worker.weights.offers import Offers
from worker.weights.piece import Piece
from worker.weights.store import ModelStore


class Lending:
    """Opens models for the weights port."""

    def __init__(self, store: ModelStore, files: LocalFiles, offers: Offers) -> None:
        self._store = store
        self._files = files
        self._offers = offers

    @contextlib.contextmanager
    def open(self, identity: str) -> Iterator[Find | None]:
        """What finds tensors of that model, while this is entered; None: nothing of it is here.

        Raises:
            ModelGoneError, StoreUnusableError, OSError.
        """
        with contextlib.ExitStack() as stack:
            stored = self._store.find(identity)
            if stored is not None:
                stack.enter_context(stored.in_use())
            layout = self._files.find(identity, self._offers.path(identity))
            file = None
            if layout is not None:
                file = stack.enter_context(self._files.open(layout, self._offers.parts(identity)))
            about = layout or (None if stored is None else stored.layout)
            if about is None:
                yield None
                return
            n_tensors = len(about.tensors)

            def find(tensor: int) -> Piece | None:
                if tensor >= n_tensors:
                    return None
                if stored is not None and stored.is_held(tensor):
                    return stored.piece(tensor)
                return None if file is None else file.piece(tensor)

            yield find
