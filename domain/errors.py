"""What a rule says when it refuses.

```
Rejected            a command that the state does not allow: code, message; nothing changed
BadInput            text a person wrote that does not parse: where it stands and what is wrong
```
"""


class Rejected(Exception):
    """A command was refused; the state is unchanged.

    ``code`` is stable and for programs (``spec_empty``, ``invalid_phase`` …); ``message`` says what is wrong,
    with which thing, and what is allowed.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class BadInput(Exception):
    """Something that a person wrote (a file, a name, an option) cannot be used; the message names the place."""
