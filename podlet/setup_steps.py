"""The steps of a setup that are done on the machine, in one file of the standard library (Python ≥ 3.8, Linux).

The podlet runs it as a launch of its own (``python3 -I -S setup_steps.py STEP ORDER``); what it prints is the step's
log. The order is JSON: ``root`` (our folder), ``result`` (the file that says how it went), and what the step needs of
``mount``, ``models_path``, ``spec`` and ``version``. Every step may be done again at any time: it looks at what is
there first, and finishes what a step that was killed had begun.

What it makes lies below ``root`` and nowhere else, the models' folder aside: ``uv/`` (only where the machine has no
recent uv), ``python/`` (only where it has no suitable Python), ``cache/uv/``, and for each vLLM version
``vllm/VERSION/`` (a virtual environment) with ``vllm/VERSION.txt`` (every package in it, with its version).

A file of its own, not part of the podlet: every supervisor loads the podlet, and a machine may have a thousand.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

    Json = Dict[str, Any]

#: The oldest uv that is used: it chooses the PyTorch that fits the GPU driver (``--torch-backend``) without a preview.
MINIMUM_UV = (0, 9, 0)
#: Pythons for which vLLM has wheels (https://docs.vllm.ai/en/latest/getting_started/quickstart/), and its favourite.
PYTHONS = ">=3.10,<3.14"
PYTHON = "3.12"
#: Launches set HF_HUB_ENABLE_HF_TRANSFER, with which an older huggingface_hub refuses to work without this package.
ALSO = "hf_transfer"
PYPI = "https://pypi.org/simple"
TAIL_BYTES = 4096

#: What to install, where else packages are looked for, for which Pythons; from vLLM's own installation pages.
TORCH = () if os.environ.get("UV_TORCH_BACKEND") else ("--torch-backend=auto",)
NIGHTLY = ("--extra-index-url", "https://wheels.vllm.ai/nightly", *TORCH)
GPT_OSS = (
    "--prerelease=allow",
    "--extra-index-url",
    "https://wheels.vllm.ai/gpt-oss/",
    "--extra-index-url",
    "https://download.pytorch.org/whl/nightly/cu128",
    "--index-strategy",
    "unsafe-best-match",
)
GPT_OSS_VERSION = "0.10.1+gptoss"
GPT_OSS_PYTHONS = ">=3.10,<3.13"

#: Seconds that parts of a step may take before they count as hanging.
MOUNT_ENDS_WITHIN = 120.0
MOUNT_APPEARS_WITHIN = 10.0
QUESTION_ANSWERED_WITHIN = 60.0
IMPORT_ENDS_WITHIN = 900.0

ADVICE = {
    "disk_full": "free some space there (df -h shows how much there is), or set up with another folder; then repeat "
    "the setup",
    "permission_denied": "make it writable for the user whom podctl logs in as, or choose a folder that is; then "
    "repeat the setup",
    "read_only": "that file system is mounted read-only: mount it writable, or choose another folder; then repeat the "
    "setup",
    "name_too_long": "choose a shorter path",
    "no_network": "the machine does not reach the package index: look at its network, its DNS and its proxy "
    "(HTTPS_PROXY, UV_DEFAULT_INDEX for a mirror of your own); then repeat the setup",
    "package_not_found": "look at --vllm: that version may not exist, or not for this machine's Python, driver or "
    "processor",
    "failed": "look at the last lines above; then repeat the setup",
}
#: What uv, pip and the system print, and what it means; the first that is found counts.
SIGNS = (
    ("disk_full", r"No space left on device|Disk quota exceeded|os error 28\b|os error 122\b"),
    ("read_only", r"Read-only file system|os error 30\b"),
    ("permission_denied", r"Permission denied|Operation not permitted|os error 13\b|os error 1\b"),
    (
        "no_network",
        (
            r"dns error|failed to lookup|Name or service not known|Temporary failure in name resolution|"
            r"Connection refused|Network is unreachable|error sending request|tcp connect error|operation timed out|"
            r"Could not connect|Failed to establish a new connection|NewConnectionError|ConnectTimeout|"
            r"network connectivity is disabled"
        ),
    ),
    (
        "package_not_found",
        (
            r"No solution found|not found in the package registry|there is no version of|No matching distribution|"
            r"were not found in the cache|not found in the provided package locations"
        ),
    ),
)


class Problem(Exception):
    """A step cannot be done; ``code`` is stable and for programs, the advice says what to do next."""

    def __init__(self, code: str, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.advice = advice or ADVICE.get(code, ADVICE["failed"])

    def told(self) -> Json:
        """Return it as the step's result."""
        return {"problem": self.code, "message": self.message, "advice": self.advice}


# ---------------------------------------------------------------------------------------------------------------------
# The steps: each returns what is told of it, ``message`` at least


def mount(order: Json) -> Json:
    """Mount what holds the models, unless something is mounted there already."""
    words: List[str] = order["mount"]
    place = expand(words[-1] if words[-1].startswith(("/", "~")) else order["models_path"])
    if is_mount_point(place):
        return {"message": f"{place} is mounted already"}
    with contextlib.suppress(OSError):
        os.makedirs(place, exist_ok=True)  # where we may not, the command may; it says so if not
    code, text = run(words, dict(os.environ), MOUNT_ENDS_WITHIN)
    command = " ".join(words)
    if code is None:
        raise Problem(
            "mount_hangs",
            f"`{command}` has not ended within {MOUNT_ENDS_WITHIN:.0f} s, and was killed",
            "see whether the machine reaches the server that it mounts from; a program that goes on in the foreground "
            "needs its option for the background",
        )
    if code == 127:
        raise Problem("program_not_found", text, "install it on the machine, or give its full path")
    if code != 0:
        raise Problem(
            "mount_failed",
            f"`{command}` ended with exit code {code}: {last_line(text)}",
            "try it on the machine (podctl shell); it runs without a terminal, so sudo must not ask for a password",
        )
    deadline = time.monotonic() + MOUNT_APPEARS_WITHIN  # programs in user space answer a moment later
    while not is_mount_point(place):
        if time.monotonic() > deadline:
            raise Problem(
                "not_mounted",
                f"`{command}` ended with exit code 0, but {place} is no mount point",
                "the command's last word is the place, which has to be a mount point then; leave --mount out for what "
                "needs no mounting",
            )
        time.sleep(0.05)
    return {"message": f"{place} is mounted"}


def models(order: Json) -> Json:
    """Make the models' folder, if there is to be one, and make sure that it can be written to."""
    if not order["models_path"]:
        home = os.environ.get("HF_HOME") or f"{os.environ.get('XDG_CACHE_HOME') or expand('~/.cache')}/huggingface"
        return {"message": f"no folder of its own: models go to Hugging Face's cache, {expand(home)}/hub"}
    place = os.path.realpath(expand(order["models_path"]))
    cache = f"{place}/huggingface/hub"
    try:
        os.makedirs(cache, exist_ok=True)
        probe = f"{cache}/.podctl-{os.getpid()}"
        with open(probe, "w") as file:
            file.write("probe")
        os.unlink(probe)
        disk = os.statvfs(place)
    except OSError as error:
        raise from_system(error, f"models cannot be kept in {place}") from error
    free = disk.f_bavail * disk.f_frsize / 1e9
    return {"message": f"models go to {cache}, {free:,.0f} GB free", "models_path": place}


def uv(order: Json) -> Json:
    """Find a recent uv, or install one of our own."""
    found = find_uv(order["root"])
    if found is None:
        install_uv(order["root"])
        found = find_uv(order["root"])
    if found is None:
        raise Problem(
            "no_uv",
            "an installed uv does not run here",
            "install uv on the machine (https://docs.astral.sh/uv), then repeat the setup",
        )
    return {"message": f"uv {'.'.join(map(str, found[1]))}, {found[0]}"}


def venv(order: Json) -> Json:
    """Resolve the exact version of vLLM, and make a virtual environment for that version."""
    root, spec = order["root"], order["spec"]
    pinned = {"release": None, "nightly": None, "gpt-oss": GPT_OSS_VERSION}.get(spec, spec[2:])
    if pinned and is_complete(root, pinned):
        return {"message": f"vLLM {pinned} is here already", "version": pinned}
    program = need_uv(root)
    environment = uv_environment(root)
    python = find_python(program, environment, GPT_OSS_PYTHONS if spec == "gpt-oss" else PYTHONS)
    say(f"resolving vLLM ({spec}) for {python}")
    os.makedirs(f"{root}/vllm", exist_ok=True)
    fresh = f"{root}/vllm/.resolved-{os.getpid()}"
    wanted = f"vllm=={pinned}\n{ALSO}\n" if pinned else f"vllm\n{ALSO}\n"
    arguments = [program, "pip", "compile", "-", "--quiet", "--no-header", "--no-annotate", "--python", python]
    try:
        need([*arguments, "--output-file", fresh, *sources(spec)], environment, f"vLLM ({spec})", wanted)
        with open(fresh) as file:
            version = resolved_version(file.read())
        os.rename(fresh, requirements(root, version))
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(fresh)
    folder = f"{root}/vllm/{version}"
    if not is_complete(root, version) and not runs([f"{folder}/bin/python", "-c", ""], environment):
        shutil.rmtree(folder, ignore_errors=True)  # what a step that was killed has left
        need([program, "venv", "--no-project", "--python", python, folder], environment, folder)
    return {"message": f"vLLM {version} in {folder}, {python_facts(folder, environment)}", "version": version}


def install(order: Json) -> Json:
    """Install vLLM, and everything that it needs, into the environment of its version."""
    root, spec, version = order["root"], order["spec"], order["version"]
    folder = f"{root}/vllm/{version}"
    if is_complete(root, version):
        return {"message": f"vLLM {version} is installed already"}
    listed = requirements(root, version)
    if not os.path.exists(listed):
        raise Problem("failed", f"{listed} is missing", "repeat the setup")
    began = time.monotonic()
    arguments = [need_uv(root), "pip", "install", "--python", f"{folder}/bin/python", "-r", listed, *sources(spec)]
    need(arguments, uv_environment(root), f"vLLM {version}")
    if not os.access(f"{folder}/bin/vllm", os.X_OK):
        raise Problem("package_not_found", f"what was installed as vLLM {version} brings no program vllm")
    write_json(marker(root, version), {"spec": spec, "version": version, "at": time.time()})
    with open(listed) as file:
        count = sum(bool(line.strip()) and not line.startswith(("#", " ", "-")) for line in file)
    return {"message": f"{count} packages in {time.monotonic() - began:.0f} s"}


def verify(order: Json) -> Json:
    """Import the installed vLLM and run its program."""
    root, version = order["root"], order["version"]
    folder = f"{root}/vllm/{version}"
    environment = uv_environment(root)
    broken = f"remove {folder} on the machine and repeat the setup, or set up another version with --vllm"
    say(f"importing vLLM {version}; the first time takes a while")
    code, text = run(
        [f"{folder}/bin/python", "-I", "-c", "import vllm; print('imported', vllm.__version__)"],
        environment,
        IMPORT_ENDS_WITHIN,
    )
    found = re.findall(r"^imported (\S+)$", text, re.MULTILINE)
    if code != 0 or not found:
        os.unlink(marker(root, version))  # so that the next setup installs what may be missing
        raise Problem(
            "import_failed", f"vLLM {version} was installed and cannot be imported: {last_line(text)}", broken
        )
    code, text = run([f"{folder}/bin/vllm", "--version"], environment, IMPORT_ENDS_WITHIN)
    if code != 0:
        os.unlink(marker(root, version))
        raise Problem("program_fails", f"`{folder}/bin/vllm --version` fails: {last_line(text)}", broken)
    return {"message": f"vLLM {found[-1]} can be imported and runs", "program": f"{folder}/bin/vllm"}


STEPS: Dict[str, Callable[[Json], Json]] = {
    "mount": mount,
    "models": models,
    "uv": uv,
    "venv": venv,
    "install": install,
    "verify": verify,
}


# ---------------------------------------------------------------------------------------------------------------------
# vLLM versions on disk


def sources(spec: str) -> Tuple[str, ...]:
    """Return uv's options that say where the packages of a vLLM are."""
    return {"nightly": NIGHTLY, "gpt-oss": GPT_OSS}.get(spec, TORCH)


def requirements(root: str, version: str) -> str:
    """Return the file that names every package of a version's environment."""
    return f"{root}/vllm/{version}.txt"


def marker(root: str, version: str) -> str:
    """Return the file that says that a version's environment is complete."""
    return f"{root}/vllm/{version}/podctl.json"


def is_complete(root: str, version: str) -> bool:
    """Return whether everything was installed into a version's environment."""
    return os.path.exists(marker(root, version)) and os.access(f"{root}/vllm/{version}/bin/vllm", os.X_OK)


def resolved_version(text: str) -> str:
    """Return the version of vLLM in a list of requirements: it becomes the name of a folder."""
    found = re.search(r"^vllm==([0-9][0-9A-Za-z.+!_-]*)", text, re.MULTILINE)
    if found is None:
        raise Problem("package_not_found", "uv found no version of vLLM")
    return found.group(1)


def python_facts(folder: str, environment: Dict[str, str]) -> str:
    """Return an environment's Python in words, with a warning where vLLM would miss something at its first start."""
    script = (
        "import os, platform, sysconfig\n"
        "print(platform.python_version())\n"
        "print(os.path.exists(os.path.join(sysconfig.get_paths()['include'], 'Python.h')))"
    )
    code, text = ask([f"{folder}/bin/python", "-I", "-c", script], environment)
    answers = text.split()
    if code != 0 or len(answers) != 2:
        raise Problem("failed", f"the Python in {folder} does not run: {last_line(text)}")
    missing = [] if answers[1] == "True" else ["Python's headers (apt-get install python3-dev)"]
    missing += [] if any(map(shutil.which, ("cc", "gcc", "clang"))) else ["a C compiler (apt-get install gcc)"]
    warning = f"; warning: {' and '.join(missing)} may be needed at the first start" if missing else ""
    return f"Python {answers[0]}{warning}"


# ---------------------------------------------------------------------------------------------------------------------
# uv


def uv_environment(root: str) -> Dict[str, str]:
    """Return the environment in which uv leaves everything of the user's alone."""
    # An activated environment of the user's, and what else would lead elsewhere than into ours.
    foreign = ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONHOME", "PYTHONPATH", "UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_TARGET")
    environment = {name: value for name, value in os.environ.items() if name not in foreign}
    environment.setdefault("UV_HTTP_TIMEOUT", "300")
    environment.update(
        NO_COLOR="1",
        UV_CACHE_DIR=f"{root}/cache/uv",  # beside the environments: files are linked, not copied
        UV_NO_PROGRESS="1",
        UV_PYTHON_INSTALL_BIN="0",
        UV_PYTHON_INSTALL_DIR=f"{root}/python",
    )
    return environment


def find_uv(root: str) -> Optional[Tuple[str, Tuple[int, ...]]]:
    """Return a uv that is recent enough, and its version: the user's, else ours."""
    on_path = shutil.which("uv")
    for program in [on_path, expand("~/.local/bin/uv"), expand("~/.cargo/bin/uv"), f"{root}/uv/bin/uv"]:
        if program and os.access(program, os.X_OK):
            _, text = ask([program, "--version"], uv_environment(root))
            found = re.search(r"\buv (\d+)\.(\d+)\.(\d+)", text)
            version = tuple(map(int, found.groups())) if found else (0,)
            if version >= MINIMUM_UV:
                return program, version
            say(f"{program} is too old: {last_line(text)}")
    return None


def need_uv(root: str) -> str:
    """Return the uv that an earlier step found."""
    found = find_uv(root)
    if found is None:
        raise Problem("no_uv", "uv is gone since it was found", "repeat the setup")
    return found[0]


def find_python(program: str, environment: Dict[str, str], wanted: str) -> str:
    """Return a Python that vLLM has wheels for: one that is here, else one that uv fetches."""
    question = [program, "python", "find", "--system", "--no-python-downloads", wanted]
    code, text = ask(question, environment)
    if code != 0:
        say(f"no Python {wanted} here: fetching {PYTHON}")
        need([program, "python", "install", PYTHON], environment, f"Python {PYTHON}")
        code, text = ask(question, environment)
    if code != 0:
        raise Problem("no_python", f"no Python {wanted}: {last_line(text)}", "install one on the machine")
    return text.strip().splitlines()[-1]


def install_uv(root: str) -> None:
    """Install uv into our folder: by pip, which knows this machine's index, else straight from the package index."""
    fresh, place = f"{root}/uv.new", f"{root}/uv"
    environment = uv_environment(root)
    environment.update(PIP_USER="0", PIP_REQUIRE_VIRTUALENV="0", PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1")
    pip = [sys.executable, "-m", "pip"]
    shutil.rmtree(fresh, ignore_errors=True)
    wanted = f"uv>={'.'.join(map(str, MINIMUM_UV))}"
    try:
        if runs([*pip, "--version"], environment):
            say("no recent uv here: installing one with pip")
            code, text = run([*pip, "install", "--target", fresh, "--no-compile", wanted], environment, None)
            if code != 0:
                problem = classify(text, "uv", code)
                if problem.code in ("disk_full", "permission_denied", "read_only"):
                    raise problem
                shutil.rmtree(fresh, ignore_errors=True)
        if not os.path.exists(f"{fresh}/bin/uv"):
            download_uv(fresh)
        shutil.rmtree(place, ignore_errors=True)
        os.rename(fresh, place)
    except OSError as error:
        raise from_system(error, f"uv cannot be installed into {place}") from error


def download_uv(folder: str) -> None:
    """Fetch uv's newest wheel from the package index, check its sha256, and unpack the program."""
    import hashlib
    import io
    import urllib.parse
    import urllib.request
    import zipfile

    index = (os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("PIP_INDEX_URL") or PYPI).rstrip("/") + "/uv/"
    say(f"fetching uv from {redact(index)}")
    if not index.startswith(("https://", "http://")):
        raise Problem("no_uv", f"{redact(index)} is no web address", "install uv on the machine, then repeat the setup")
    try:
        # The index has just been seen to be a web address; what it names is used only if its digest fits.
        question = urllib.request.Request(index, headers={"Accept": "application/vnd.pypi.simple.v1+json"})  # noqa: S310
        with urllib.request.urlopen(question, timeout=QUESTION_ANSWERED_WITHIN) as answer:  # noqa: S310
            files = listed_files(answer.read().decode(errors="replace"))
        wheel = newest_wheel(files)
        with urllib.request.urlopen(urllib.parse.urljoin(index, wheel["url"]), timeout=300) as answer:  # noqa: S310
            data = answer.read()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS):
            raise
        raise Problem("no_network", f"{redact(index)} does not answer: {redact(str(error))}") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != wheel["sha256"]:
        raise Problem(
            "wrong_digest",
            f"{wheel['filename']} has the sha256 {digest}, and the index says {wheel['sha256']}",
            "it was damaged on the way, or somebody changed it: repeat the setup; if that does not help, install uv "
            "yourself",
        )
    os.makedirs(f"{folder}/bin")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".data/scripts/uv"))
        with open(f"{folder}/bin/uv", "wb") as file:
            file.write(archive.read(name))
    os.chmod(f"{folder}/bin/uv", 0o755)  # noqa: S103 - a program


def listed_files(page: str) -> List[Json]:
    """Return the files (name, url, sha256) that a page of a package index lists: JSON, or HTML as mirrors have it."""
    import html

    if page.lstrip().startswith("{"):
        return [
            {"filename": file["filename"], "url": file["url"], "sha256": file.get("hashes", {}).get("sha256")}
            for file in json.loads(page).get("files", ())
            if not file.get("yanked")
        ]
    files = []
    for attributes, name in re.findall(r"<a\s([^>]*)>\s*([^<]+?)\s*</a>", page):
        found = re.search(r'href\s*=\s*"([^"#]+)#sha256=([0-9a-f]{64})"', html.unescape(attributes))
        if found and "data-yanked" not in attributes:
            files.append({"filename": html.unescape(name), "url": found.group(1), "sha256": found.group(2)})
    return files


def newest_wheel(files: List[Json]) -> Json:
    """Return the newest wheel of uv that fits this machine."""
    import platform

    kind = "manylinux" if platform.libc_ver()[0] == "glibc" else "musllinux"
    fitting = []
    for file in files:
        found = re.match(r"uv-(\d+)\.(\d+)\.(\d+)-py3-none-(\S+)\.whl$", file["filename"])
        tags = found.group(4) if found else ""
        if found and file["sha256"] and kind in tags and tags.endswith(f"_{platform.machine()}"):
            fitting.append((tuple(map(int, found.groups()[:3])), file))
    if not fitting:
        raise Problem(
            "no_uv",
            f"there is no uv for {platform.machine()} with {kind}",
            "install uv on the machine (https://docs.astral.sh/uv), then repeat the setup",
        )
    return max(fitting, key=lambda one: one[0])[1]


# ---------------------------------------------------------------------------------------------------------------------
# Programs, their output and what it means


def need(arguments: List[str], environment: Dict[str, str], what: str, given: Optional[str] = None) -> None:
    """Run a program for as long as it takes; raise ``Problem`` unless it succeeds."""
    code, text = run(arguments, environment, None, given)
    if code != 0:
        raise classify(text, what, code)


def run(
    arguments: List[str], environment: Dict[str, str], seconds: Optional[float], given: Optional[str] = None
) -> Tuple[Optional[int], str]:
    """Run a program that writes to our log; return its exit code (None: it hung and was killed) and its last words."""
    sys.stdout.flush()
    log = os.readlink("/proc/self/fd/1")
    before = os.fstat(1).st_size
    try:
        process = subprocess.Popen(
            arguments,
            env=environment,
            stdin=subprocess.DEVNULL if given is None else subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        return 127, f"{arguments[0]} cannot be started: {error.strerror}"
    code: Optional[int]
    try:
        # Waited for by its end, not by the end of its output: what it leaves in the background may go on writing.
        if given is not None and process.stdin:
            process.stdin.write(given.encode())
            process.stdin.close()
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        code = None
    after = os.fstat(1).st_size
    with open(log, "rb") as file:
        file.seek(max(before, after - TAIL_BYTES))
        return code, redact(file.read().decode(errors="replace"))


def ask(arguments: List[str], environment: Dict[str, str]) -> Tuple[int, str]:
    """Return exit code and output of a program that answers soon; its errors go to our log."""
    sys.stdout.flush()
    try:
        done = subprocess.run(
            arguments,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=QUESTION_ANSWERED_WITHIN,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 127, str(error)
    return done.returncode, done.stdout.decode(errors="replace")


def runs(arguments: List[str], environment: Dict[str, str]) -> bool:
    """Return whether a program answers with success."""
    return os.access(arguments[0], os.X_OK) and ask(arguments, environment)[0] == 0


def classify(text: str, what: str, code: Optional[int]) -> Problem:
    """Return what a program's last words mean."""
    for kind, sign in SIGNS:
        found = re.search(rf"^.*({sign})", text, re.MULTILINE)
        if found:
            return Problem(kind, f"{what} could not be installed: {' '.join(text[found.start() :].split())[:500]}")
    return Problem("failed", f"{what} could not be installed (exit code {code}): {last_line(text)}")


def from_system(error: OSError, what: str) -> Problem:
    """Return what an error of the system means."""
    kinds = {
        errno.ENOSPC: "disk_full",
        errno.EDQUOT: "disk_full",
        errno.EROFS: "read_only",
        errno.EACCES: "permission_denied",
        errno.EPERM: "permission_denied",
        errno.ENAMETOOLONG: "name_too_long",
    }
    place = f" ({error.filename})" if error.filename else ""
    return Problem(kinds.get(error.errno or 0, "failed"), f"{what}: {error.strerror or error}{place}")


def is_mount_point(path: str) -> bool:
    """Return whether something is mounted at a path."""
    pretended = os.environ.get("PODLET_MOUNTS")  # a simulated machine cannot mount
    if pretended and os.path.exists(pretended):
        with open(pretended) as file:
            if os.path.realpath(path) in file.read().splitlines():
                return True
    return os.path.ismount(os.path.realpath(path))


def expand(path: str) -> str:
    """Return a path with its ``~`` replaced."""
    return os.path.expanduser(path)


def last_line(text: str) -> str:
    """Return the last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else "it said nothing"


def redact(text: str) -> str:
    """Return a text without the passwords that URLs of package indexes may hold."""
    return re.sub(r"://[^/\s@]+@", "://***@", text)


def say(text: str) -> None:
    """Write a line to the step's log; a full disk is told by the result."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


def write_json(path: str, value: Json) -> None:
    """Replace a file atomically."""
    with open(f"{path}.new", "w") as file:
        json.dump(value, file)
    os.rename(f"{path}.new", path)


@contextlib.contextmanager
def alone(root: str) -> Iterator[None]:
    """Hold this machine's setup for ourselves: the machine may be known as two pods."""
    with open(f"{root}/setup.lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another setup is at work on this machine: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Do one step and write down how it went; return the exit code."""
    step, order = sys.argv[1], json.loads(sys.argv[2])
    try:
        with alone(order["root"]):
            result = STEPS[step](order)
    except Problem as problem:
        result = problem.told()
    except OSError as error:
        result = from_system(error, f"step {step} failed").told()
    say(result["message"])
    try:
        write_json(order["result"], result)
    except OSError as error:
        return error.errno or 1  # all that can be told then
    return 1 if "problem" in result else 0


if __name__ == "__main__":
    sys.exit(main())
