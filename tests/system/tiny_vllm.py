"""A vLLM that only knows its version, as a wheel: what uv installs where a test has neither network nor 10 GB."""

import zipfile
from pathlib import Path

VERSION = "0.99.1"

_PROGRAM = '''import sys

__version__ = "{version}"


def main() -> int:
    """Do what ``vllm --version`` does."""
    if sys.argv[1:] == ["--version"]:
        print(__version__)
        return 0
    return 2
'''


def write_wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> Path:
    """Write a wheel of Python files into a folder and return its path."""
    info = f"{name}-{version}.dist-info"
    content = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: podctl\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = f"{info}/RECORD"
    content[record] = "".join(f"{path},,\n" for path in (*content, record))
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in content.items():
            archive.writestr(path, text)
    return wheel


def write_wheels(folder: Path, *versions: str) -> None:
    """Write vLLMs of these versions, and what is installed beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    write_wheel(folder, "hf_transfer", "0.1.9", {"hf_transfer/__init__.py": ""})
    for version in versions:
        files = {
            "vllm/__init__.py": _PROGRAM.format(version=version),
            f"vllm-{version}.dist-info/entry_points.txt": "[console_scripts]\nvllm = vllm:main\n",
        }
        write_wheel(folder, "vllm", version, files)
