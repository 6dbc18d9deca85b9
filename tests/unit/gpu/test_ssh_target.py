import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import BadInput
from domain.gpu.ssh_target import SshTarget, parse_ssh


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("root@203.0.113.7", {"host": "203.0.113.7", "user": "root"}),
        ("my-box", {"host": "my-box"}),
        ("ssh my-box", {"host": "my-box"}),
        ("/usr/bin/ssh my-box", {"host": "my-box"}),
        (
            "ssh -p 2222 -i key -J jump root@host",
            {"host": "host", "user": "root", "port": 2222, "identity_files": ("key",), "jump": "jump"},
        ),
        ("ssh root@host -p 2222 -i ~/.ssh/id", {"host": "host", "user": "root", "port": 2222,
                                               "identity_files": ("~/.ssh/id",)}),
        ("ssh -p2222 -lroot host", {"host": "host", "user": "root", "port": 2222}),
        ("ssh -i 'my keys/id one' host", {"host": "host", "identity_files": ("my keys/id one",)}),
        ("ssh -i a -i b host", {"host": "host", "identity_files": ("a", "b")}),
        ("ssh -o Port=22 -o 'User bob' -oIdentityFile=k -o proxyjump=a@j:23,k host",
         {"host": "host", "port": 22, "user": "bob", "identity_files": ("k",), "jump": "a@j:23,k"}),
        ("ssh -p 22 -o Port=22 host", {"host": "host", "port": 22}),
        ("ssh -J none host", {"host": "host"}),
        ("ssh -J root@[2001:db8::1]:2200 host", {"host": "host", "jump": "root@[2001:db8::1]:2200"}),
        ("ssh root@2001:db8::1", {"host": "2001:db8::1", "user": "root"}),
        ("ssh://root@host:2222", {"host": "host", "user": "root", "port": 2222}),
        ("ssh ssh://root@[2001:db8::1]:2222/", {"host": "2001:db8::1", "user": "root", "port": 2222}),
        ("ssh -- host", {"host": "host"}),
        ("abc-64411f2a@ssh.runpod.io -i ~/.ssh/id_ed25519",
         {"host": "ssh.runpod.io", "user": "abc-64411f2a", "identity_files": ("~/.ssh/id_ed25519",)}),
    ],
)  # fmt: skip
def test_lines_as_people_paste_them(line: str, expected: dict[str, object]) -> None:
    assert parse_ssh(f"  {line} ") == SshTarget.model_validate({"command": line, **expected})


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "names no host"),
        ("ssh", "names no host"),
        ("ssh -p", "-p, which needs a value"),
        ("ssh -p 0 host", "not a port"),
        ("ssh -p 99999 host", "not a port"),
        ("ssh -p abc host", "not a port"),
        ("ssh -p 22 -p 23 host", "two values for the port"),
        ("ssh -l bob root@host", "two values for the user"),
        ("ssh -L 8080:localhost:8080 host", "ssh -L is not honoured"),
        ("ssh -A host", "ssh -A is not honoured (agent forwarding"),
        ("ssh -vp 22 host", "ssh -v is not honoured"),
        ("ssh -F file host", "ssh -F is not honoured"),
        ("ssh -Z host", "ssh does not know"),
        ("ssh -o StrictHostKeyChecking=no host", "never skips the check"),
        ("ssh -o ServerAliveInterval=5 host", "-o ServerAliveInterval is not honoured"),
        ("ssh -o Port host", "write it as -o Option=value"),
        ("ssh host uptime", "goes on after the host"),
        ("ssh root@host; rm -rf /", "goes on after the host"),
        ("root@host;reboot", "not a host"),
        ("root@$(id)", "not a host"),
        ("ro`id`ot@host", "not a user name"),
        ("@host", "not a user name"),
        ("root@", "not a host"),
        ("ssh -i '' host", "empty identity file"),
        ("ssh 'host", "cannot be split into words"),
        ("root@host\nuptime", "one line"),
        ("x" * 3000, "at most"),
        ("ssh -- -oProxyCommand=x", "not a host"),
        ("ssh -J 'jump;id' host", "not a host"),
        ("ssh -J -oProxyCommand=x host", "not a host"),
    ],
)
def test_what_is_not_honoured_is_refused_by_name(line: str, says: str) -> None:
    with pytest.raises(BadInput) as refused:
        parse_ssh(line)
    assert says in str(refused.value)


@given(st.text(max_size=60))
def test_any_text_gives_safe_words_or_is_refused(text: str) -> None:
    try:
        target = parse_ssh(text)
    except BadInput:
        return
    for word in (target.host, target.user or "x"):
        assert not word.startswith("-")
        assert not set(word) & set(" \t\n;|&$`'\"\\<>(){}*?!#~")


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1))
def test_an_identity_file_may_be_called_anything(name: str) -> None:
    import shlex

    line = f"ssh -i {shlex.quote(name)} host"
    if line != line.strip():
        return
    assert parse_ssh(line).identity_files == (name,)
