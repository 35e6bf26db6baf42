r"""The keys that detach a user from a terminal, while the application goes on.

The grammar is Docker's: keys with a comma between them. A key is a character by itself, or `ctrl-`
and a letter or one of `@[\]^_`. The default is `ctrl-p,ctrl-q`; "" turns detaching off.
"""

from __future__ import annotations

from rootless.errors import INVALID, RlessError

DEFAULT = "ctrl-p,ctrl-q"


def parse(text: str) -> bytes:
    """Return the bytes that a terminal sends for `ctrl-p,ctrl-q`.

    Raises:
        RlessError: there is no such key.
    """
    result = b""
    for name in text.split(",") if text else ():
        control = name.lower().startswith("ctrl-")
        key = name[5:].upper() if control else name
        if len(key) != 1 or not key.isascii() or (control and not "@" <= key <= "_"):
            raise RlessError(
                f"--detach-keys: {name!r} is not a key",
                "a character, or ctrl- and a letter",
                kind=INVALID,
            )
        result += bytes([ord(key) & 0x1F if control else ord(key)])
    return result


class Keys:
    """Look for the keys in what the user types, and pass everything else on.

    Attributes:
        typed: the user has typed all of them.
    """

    __slots__ = ("_held", "_sequence", "typed")

    def __init__(self, text: str | None) -> None:
        self._sequence = parse(DEFAULT if text is None else text)
        self._held = b""
        self.typed = False

    def feed(self, data: bytes) -> bytes:
        """Return what goes to the application of these bytes and those held back before.

        The beginning of the sequence is held back until the next key decides.
        """
        if not self._sequence or self.typed:
            return data
        data, self._held = self._held + data, b""
        at = data.find(self._sequence)
        if at >= 0:
            self.typed = True
            return data[:at]
        for length in range(min(len(self._sequence) - 1, len(data)), 0, -1):
            if data.endswith(self._sequence[:length]):
                self._held = data[-length:]
                return data[:-length]
        return data
