"""How does a test get a mount namespace of its own, of which nothing gets out?"""

from __future__ import annotations

import os
import subprocess
from functools import cache

# In a bare chroot "/" is no mount point, so that its propagation cannot be changed: all that is below it is put on top
# of one that is, /proc, which then is the root.
OWN_ROOT = """
mount --make-private /proc && mount --rbind / /proc && mount --make-rprivate /proc &&
exec chroot /proc /usr/bin/env -C "$PWD" "$@"
"""


def unshared(*kinds: str) -> list[str]:
    """Return the beginning of a command line that enters new namespaces; root in them, whoever asks."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *user, *kinds]


def works(command: list[str]) -> bool:
    """Return True if this machine lets us run something by such a command line."""
    return subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0


@cache
def _own_mounts() -> tuple[str, ...]:
    plain = unshared("--mount")
    in_chroot = [*plain, "--propagation", "unchanged", "/bin/sh", "-c", OWN_ROOT, "sh"]
    return tuple(in_chroot if not works(plain) and works(in_chroot) else plain)


def own_mounts() -> list[str]:
    """Return the beginning of a command line that runs a command in a mount namespace of its own."""
    return [*_own_mounts()]
