"""Check that the programs which `make test-system` drives are there; say how to get what is missing."""

import os
import shutil
import sys

#: What is needed -> the names it goes by, the Debian package that has it.
PROGRAMS = {
    "OpenSSH server (sshd)": (("sshd",), "openssh-server"),
    "Chromium": (("chromium", "chromium-browser", "google-chrome"), "chromium"),
    "Chromium driver": (("chromedriver",), "chromium-driver"),
}


def main() -> int:
    """Return 0 if every program is there, else 1 with one line for each that is missing."""
    # Debian keeps sshd where a user's PATH does not look.
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    missing = {
        title: package
        for title, (names, package) in PROGRAMS.items()
        if not any(shutil.which(name, path=search) for name in names)
    }
    for title, package in missing.items():
        print(f"error: {title} is missing (Debian, Ubuntu: apt-get install {package})", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
