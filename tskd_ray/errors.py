"""Everything tskd_ray raises on purpose.

TskdError
├── InputError       what the user gave is wrong       → exit code 2, one line
│   ├── ConfigError      a value you wrote             → edit the YAML or the override
│   ├── DataError        a dataset, episode or row     → the message names it
│   ├── StorageError     a folder or URI               → choose another, or free it
│   └── ResourceError    hardware that is not there    → ask for what the cluster has
└── StageError       a stage failed while running      → exit code 1; the same command resumes

Each message says the rule, what came, and what to do.
"""

from __future__ import annotations


class TskdError(Exception):
    """Base of every error that tskd_ray raises on purpose."""


class InputError(TskdError):
    """What the user gave is wrong; the command line turns it into exit code 2."""


class ConfigError(InputError):
    """A configuration value breaks a rule."""


class DataError(InputError):
    """A dataset cannot be read or breaks an invariant."""


class StorageError(InputError):
    """The storage root cannot be read or written."""


class ResourceError(InputError):
    """The configuration asks for hardware that is not there."""


class StageError(TskdError):
    """A stage failed for a reason that is not the user's input; running again resumes."""


def reason(error: BaseException) -> str:
    """The first line of another library's message, as a sentence within one of ours."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"{lines[0].rstrip('. ')}."
