"""The error every verb raises for what the operator can mend."""

from __future__ import annotations


class CliError(Exception):
    """Something is not as it must be; the text says what was done, to what, what was found and what mends it."""

    def __init__(self, message: str, status: int = 1, **details: object) -> None:
        super().__init__(message)
        self.status = status
        self.details = details
