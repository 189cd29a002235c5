# SPDX-License-Identifier: MIT
"""How a servicer's failure reaches the caller: status, sentence and ErrorDetail. Used by both servicers."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc

from native import NativeError
from protos.failures import detail_to_metadata, status_of, status_text
from worker.errors import CallError
from worker.failures import Culprit, detail_of

_LOG = logging.getLogger(__name__)


@contextmanager
def failures_answered(context: grpc.ServicerContext, culprit: Callable[[], Culprit]) -> Iterator[None]:
    """Ends the call with the status of whatever is raised within; never swallows, gRPC's abort raises again."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, CallError | NativeError):
            _LOG.exception("a call failed for a reason nobody foresaw")
        detail = detail_of(error, culprit())
        _LOG.info("refused: %s", status_text(detail))
        context.set_trailing_metadata(detail_to_metadata(detail))
        context.abort(status_of(detail.code), status_text(detail))
