"""Storage calls that fail for what may pass are made again, a few times."""

from __future__ import annotations

import errno
import logging
import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

from tskd_ray.pipeline.room import is_full

T = TypeVar("T")
log = logging.getLogger(__name__)

PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each further try, at most: many workers should not come back at once."""

_PASSING = frozenset(
    {
        errno.EIO, errno.EAGAIN, errno.EINTR, errno.EBUSY, errno.ESTALE, errno.ETIMEDOUT,
        errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.EPIPE,
        errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
    }
)  # fmt: skip

_PASSING_WORDS = re.compile(
    # pyarrow's and botocore's words for an object store that is out of reach or overloaded
    r"NETWORK_CONNECTION|INTERNAL_FAILURE|SERVICE_UNAVAILABLE|SLOW_DOWN|THROTTLING"
    r"|REQUEST_TIMEOUT|InternalError|SlowDown|ServiceUnavailable"
    r"|RequestTimeout|HTTP status (408|429|5\d\d)|curlCode|time[d-]* ?out|connection",
    re.IGNORECASE,
)


def retried(call: Callable[[], T], what: str) -> T:
    """What `call()` returns, tried again after errors that may pass.

    Args:
        call: May be made again after it failed in the middle.
        what: Its name in the log.
    """
    for pause in PAUSES:
        try:
            return call()
        except OSError as error:  # pyarrow's own is the same
            if not may_pass(error):
                raise
            log.warning("%s failed (%s) and is tried again.", what, reason(error))
        time.sleep(pause * random.uniform(0.5, 1.0))
    return call()


def may_pass(error: BaseException) -> bool:
    """Whether the same call may work in a moment; never if nothing is there, or forbidden."""
    if isinstance(error, FileNotFoundError | PermissionError | FileExistsError) or is_full(
        error
    ):
        return False
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    number = getattr(error, "errno", None)
    if number is not None:
        return number in _PASSING
    return _PASSING_WORDS.search(str(error)) is not None


def reason(error: BaseException | None) -> str:
    """Another library's message in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())
