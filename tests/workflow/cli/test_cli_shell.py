"""`podctl shell` and `podctl ssh`: a terminal joined to one on a pod, and pipes that stay pipes."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import asyncssh
import pytest

from simulator.api import SimulatedMachine
from tests.workflow.cli.pty_harness import at_terminal
from tests.workflow.cli.support import PATIENCE, CommandLine
from tests.workflow.support import eventually


async def piped(podctl: CommandLine, *arguments: str, given: bytes = b"") -> tuple[int | None, bytes, bytes]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "cli", *arguments),
        env={**os.environ, **podctl.environment},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await asyncio.wait_for(process.communicate(given), PATIENCE)
    return process.returncode, out, errors


async def test_a_command_is_the_shells_and_its_exit_code_is_ours(podctl: CommandLine, gpu_pod: str) -> None:
    code, out, errors = await piped(podctl, "ssh", "echo $((6 * 7)); echo oh >&2; exit 7")
    assert (code, out) == (7, b"42\n")
    assert b"oh\n" in errors
    code, out, _ = await piped(podctl, "ssh", gpu_pod, "kill -TERM $$")
    assert code == 128 + signal.SIGTERM
    code, _, errors = await piped(podctl, "ssh", "too", "many", "words")
    assert code == 2
    assert b"as one word" in errors


async def test_every_byte_passes_both_ways(podctl: CommandLine, gpu_pod: str) -> None:
    assert gpu_pod
    data = bytes(range(256)) * 2_000
    code, out, _ = await piped(podctl, "ssh", "cat", given=data)
    assert (code, out) == (0, data)
    code, out, _ = await piped(podctl, "shell", given=b"echo from a shell\nexit 3\n")
    assert (code, out) == (3, b"from a shell\n")


async def test_a_shell_has_the_terminal_its_keys_and_its_size(podctl: CommandLine, gpu_pod: str) -> None:
    async with at_terminal(podctl, "shell", gpu_pod) as terminal:
        terminal.type("PS1='go''on> '; stty size; echo $TERM; [ -t 2 ] && echo real\n")
        await terminal.shows("24 80")
        await terminal.shows("xterm")
        await terminal.shows("real")
        assert terminal.raw
        terminal.resize(123, 45)
        terminal.type("until [ \"$(stty size)\" = '45'' 123' ]; do sleep 0.05; done; stty size\n")
        await terminal.shows("45 123")
        terminal.type("echo to''cat; cat\n")
        await terminal.shows("tocat\r\n")
        terminal.type("typed\n")
        await terminal.shows("typed\r\ntyped\r\n")
        terminal.type("\x03")
        # What is typed before the key has taken effect is thrown away with it.
        await terminal.shows("goon> ")
        terminal.type("echo code $?\n")
        await terminal.shows("code 130")
        terminal.type("exit 5\n")
        assert await terminal.ended() == 5
        assert not terminal.raw


async def test_a_command_at_a_terminal_gets_ctrl_c(podctl: CommandLine, gpu_pod: str) -> None:
    assert gpu_pod
    async with at_terminal(
        podctl, "ssh", "trap 'echo caught; exit 9' INT; echo waiting; while :; do sleep 0.1; done"
    ) as t:
        await t.shows("waiting")
        t.type("\x03")
        await t.shows("caught")
        assert await t.ended() == 9


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_the_terminal_is_put_back_when_podctl_is_ended(
    podctl: CommandLine, gpu_pod: str, number: signal.Signals
) -> None:
    async with at_terminal(podctl, "shell", gpu_pod) as terminal:
        terminal.type("echo up and $((1 + 1))\n")
        await terminal.shows("up and 2")
        terminal.process.send_signal(number)
        assert await terminal.ended() != 0
        assert not terminal.raw


async def test_the_terminal_is_put_back_when_the_connection_is_lost(
    podctl: CommandLine, gpu_pod: str, machine: SimulatedMachine
) -> None:
    async with at_terminal(podctl, "shell", gpu_pod) as terminal:
        terminal.type("echo up and $((1 + 1))\n")
        await terminal.shows("up and 2")
        await machine.drop_connections()
        await terminal.shows("connection was lost")
        assert await terminal.ended() == 1
        assert not terminal.raw


async def test_ctrl_c_is_sent_on_where_there_is_no_terminal(
    podctl: CommandLine, gpu_pod: str, machine: SimulatedMachine
) -> None:
    assert gpu_pod
    async with podctl.started("ssh", "echo ready; exec sleep 1001") as program:
        await program.line("ready")
        program.interrupt()
        assert (await program.ended()).status == 128 + signal.SIGINT

    async def gone() -> bool:
        return not [process for process in await machine.processes() if process.title == "sleep 1001"]

    await eventually(gone, "the command has ended")


async def test_a_second_ctrl_c_leaves_the_command(podctl: CommandLine, gpu_pod: str) -> None:
    assert gpu_pod
    async with podctl.started("ssh", "trap '' INT; echo ready; sleep 1000") as program:
        await program.line("ready")
        program.interrupt()
        assert "a second one" in await program.error_line("Ctrl-C")
        program.interrupt()
        assert (await program.ended()).status == 130


async def test_a_passphrase_is_asked_for_at_the_terminal_and_not_shown(
    podctl: CommandLine, gpu_pod: str, machine: SimulatedMachine, tmp_path: Path
) -> None:
    locked = tmp_path / "locked"
    key = asyncssh.read_private_key(machine.client_key)
    locked.touch(mode=0o600)
    locked.write_bytes(key.export_private_key("openssh", passphrase="open sesame"))
    ssh = machine.ssh_command.replace(str(machine.client_key), str(locked))
    await podctl("pods", "set", gpu_pod, f"{ssh} -o IdentitiesOnly=yes")
    code, _, errors = await piped(podctl, "ssh", "echo in")
    assert code == 1
    assert b"passphrase" in errors
    async with at_terminal(podctl, "ssh", "echo in and $((1 + 1))") as terminal:
        await terminal.shows(f"Passphrase of {locked}: ")
        terminal.type("wrong\n")
        await terminal.shows("that is not it")
        terminal.type("open sesame\n")
        await terminal.shows("in and 2")
        assert "sesame" not in terminal.seen
        assert await terminal.ended() == 0
    async with at_terminal(podctl, "ssh", "echo in") as terminal:
        await terminal.shows("Passphrase of")
        terminal.type("\x03")
        assert await terminal.ended() == 130
