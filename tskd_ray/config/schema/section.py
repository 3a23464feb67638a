"""What every section of the configuration is."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


def _check_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise PydanticCustomError(
            "name",
            "Name should begin with a letter or digit and go on with at most 99 letters, "
            "digits, dots, dashes and underscores, such as my-run",
        )
    return name


Name = Annotated[str, AfterValidator(_check_name)]
"""Of a folder below the storage, which it cannot leave."""


class Section(BaseModel):
    """Base of every section: frozen, strict, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
