"""The one exception of the sandbox."""

from __future__ import annotations


class SandboxError(Exception):
    """Something the sandbox needs is not as expected.

    Args:
        doing: what was being done, to what ("start salt-master on 10.99.0.1:14506").
        found: what was found instead of success.
        expected: what was expected, if that is not obvious.
        mend: what the reader can do about it.
    """

    def __init__(self, doing: str, found: str, expected: str = "", mend: str = "") -> None:
        self.doing, self.found, self.expected, self.mend = doing, found, expected, mend
        lines = [f"could not {doing}", f"  found:    {found}"]
        if expected:
            lines.append(f"  expected: {expected}")
        if mend:
            lines.append(f"  to mend:  {mend}")
        super().__init__("\n".join(lines))
