"""What can go wrong between here and a GPU pod.

```
RemoteError
├── Unreachable            no connection now (refused, timed out, dropped); nothing is known about the machine
├── AuthenticationFailed   the machine refused our key; another worker may have the right one
├── HostKeyChanged         the machine is not the one that was pinned; a person decides
├── SshSetupError          this process's own SSH set-up is in the way: ~/.ssh/config, an unknown jump host
└── PodletError            the machine answered: what was asked for cannot be done (code, message)
    └── PodletUnusable     the machine cannot run the podlet at all (no Python, no space …)
```
"""


class RemoteError(Exception):
    """Base of all that can go wrong with a GPU pod."""


class Unreachable(RemoteError):
    """There is no connection to the pod now. ``retry_after`` is in seconds: no sooner is a new try made."""

    def __init__(self, pod: str, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(f"pod {pod} is unreachable: {reason}")
        self.pod = pod
        self.reason = reason
        self.retry_after = retry_after


class AuthenticationFailed(RemoteError):
    """The pod's SSH server refused every key that this process has."""


class HostKeyChanged(RemoteError):
    """The host key that the machine showed is not the pinned one."""


class SshSetupError(RemoteError):
    """What this process has of SSH (``~/.ssh/config``, ``known_hosts``) cannot be used; another worker's may do."""


class PodletError(RemoteError):
    """The podlet refused or failed; ``code`` is the podlet's, stable and for programs."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class PodletUnusable(PodletError):
    """The podlet could not be uploaded or started on this machine."""
