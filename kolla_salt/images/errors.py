"""The one error of this sub-package: it says what was tried, what was met and how to go on."""

from __future__ import annotations


class ImageError(Exception):
    """Something about container images could not be done.

    :param doing: what was being done, to what (``building image keystone``).
    :param found: what was met instead of success.
    :param expected: what would have been right.
    :param command: the command that mends or shows more; may be empty.
    """

    def __init__(self, doing: str, found: str, expected: str = "", command: str = ""):
        self.doing, self.found, self.expected, self.command = doing, found, expected, command
        text = f"{doing}: {found}"
        if expected:
            text += f"; expected: {expected}"
        if command:
            text += f"; to go on: {command}"
        super().__init__(text)

    def as_dict(self) -> dict[str, str]:
        """Return the parts of the message for ``--json``."""
        return {"doing": self.doing, "found": self.found, "expected": self.expected, "command": self.command}
