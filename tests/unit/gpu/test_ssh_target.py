import shlex

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
        ("ssh -J none host", {"host": "host", "jump": "none"}),
        ("ssh -4C host", {"host": "host", "address_family": "inet", "compression": True}),
        ("ssh -6 -o AddressFamily=inet6 host", {"host": "host", "address_family": "inet6"}),
        ("ssh -o ServerAliveInterval=5 -o ServerAliveCountMax=2 -o ConnectTimeout=30 host",
         {"host": "host", "keepalive_interval": 5, "keepalive_count": 2, "connect_timeout": 30}),
        ("ssh -i k -o IdentitiesOnly=yes -o CertificateFile=k-cert.pub -o IdentityAgent=none host",
         {"host": "host", "identity_files": ("k",), "identities_only": True, "certificate_files": ("k-cert.pub",),
          "identity_agent": "none"}),
        ("ssh -o 'UserKnownHostsFile ~/.ssh/a \"b c\"' -o HostKeyAlias=box host",
         {"host": "host", "known_hosts_files": ("~/.ssh/a", "b c"), "host_key_alias": "box"}),
        ("ssh -o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=accept-new host",
         {"host": "host", "known_hosts_files": ("/dev/null",)}),
        ("ssh -o PreferredAuthentications=publickey,password -o PubkeyAuthentication=yes -o Compression=no host",
         {"host": "host", "compression": False}),
        ("ssh -o PasswordAuthentication=no -o BatchMode=yes -o LogLevel=ERROR host", {"host": "host"}),
        ("ssh -vqTtNnf -E log -S none host", {"host": "host"}),
        ("ssh -p 123 root@ssh4.vast.ai -L 8080:localhost:8080",
         {"host": "ssh4.vast.ai", "port": 123, "user": "root",
          "left_out": ("-L 8080:localhost:8080: podctl connect makes tunnels to model servers",)}),
        ("ssh -A -o ForwardX11=no -o 'RemoteForward 1 a:2' host",
         {"host": "host", "left_out": ("-A: podctl forwards no agent",
                                       "-o RemoteForward=1 a:2: podctl forwards nothing to this machine")}),
        ('ssh -i "gpu key.pem" ubuntu@ec2-203-0-113-7.compute-1.amazonaws.com',
         {"host": "ec2-203-0-113-7.compute-1.amazonaws.com", "user": "ubuntu", "identity_files": ("gpu key.pem",)}),
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
        ("ssh -vp 0 host", "not a port"),
        ("ssh -F file host", "ssh -F is not honoured: put the host into ~/.ssh/config"),
        ("ssh -W inner:22 host", "with -J"),
        ("ssh -b 10.0.0.1 host", "BindAddress"),
        ("ssh -s host", "no subsystem"),
        ("ssh -Z host", "ssh does not know"),
        ("ssh -o StrictHostKeyChecking=no host", "never skips the check"),
        ("ssh -o stricthostkeychecking=off host", "never skips the check"),
        ("ssh -o ServerAliveInterval=0 host", "has to notice"),
        ("ssh -o ConnectTimeout=soon host", "not a number from 1"),
        ("ssh -o ProxyCommand='nc %h %p' host", "runs no programs"),
        ("ssh -o HostName=1.2.3.4 host", "name it as the host"),
        ("ssh -o Ciphers=none host", "~/.ssh/config under a host alias"),
        ("ssh -o PreferredAuthentications=password host", "logs in with keys only"),
        ("ssh -o PubkeyAuthentication=no host", "logs in with keys only"),
        ("ssh -o IdentitiesOnly=perhaps host", "neither yes nor no"),
        ("ssh -4 -6 host", "two values for the address family"),
        ("ssh -o 'UserKnownHostsFile \"a' host", "cannot be split into files"),
        ("ssh -J a,b,c,d,e,f,g,h,i host", "9 jump hosts"),
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


PIECES = """ssh -p 22 -i -J -l -o -L -4 -C -- -vp none root@ @ : [ ] ssh:// host a,b Port= User=x ProxyJump=;id
UserKnownHostsFile='a StrictHostKeyChecking=no IdentityAgent=$X ConnectTimeout=1 -oProxyCommand=x \\ ' " %h"""
WORDS = st.one_of(st.text(max_size=12), st.sampled_from(PIECES.split()))


@given(st.lists(WORDS, max_size=8).map(" ".join))
def test_any_line_gives_safe_words_or_is_refused(line: str) -> None:
    try:
        target = parse_ssh(line)
    except BadInput:
        return
    for word in (
        target.host,
        (target.user or "x").removesuffix("$"),
        target.host_key_alias or "x",
        *(target.jump or "x").split(","),
    ):
        assert not word.startswith("-")
        assert not set(word) & set(" \t\n;|&$`'\"\\<>(){}*?!#~")
    assert parse_ssh(target.command) == target


NAMES = st.from_regex(r"[a-z0-9][a-z0-9.-]{0,20}", fullmatch=True)
PATHS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Z"], exclude_characters="\"'\\"), min_size=1
)
TARGETS = st.fixed_dictionaries(
    {"host": NAMES},
    optional={
        "port": st.integers(1, 65535),
        "user": NAMES,
        "identity_files": st.lists(PATHS, min_size=1, max_size=3, unique=True).map(tuple),
        "certificate_files": st.lists(PATHS, min_size=1, max_size=2, unique=True).map(tuple),
        "jump": st.lists(st.tuples(NAMES, NAMES, st.integers(1, 65535)), min_size=1, max_size=3).map(
            lambda hops: ",".join(f"{user}@{host}:{port}" for user, host, port in hops)
        ),
        "identities_only": st.booleans(),
        "compression": st.booleans(),
        "address_family": st.sampled_from(["any", "inet", "inet6"]),
        "connect_timeout": st.integers(1, 3600),
        "keepalive_interval": st.integers(1, 3600),
        "keepalive_count": st.integers(1, 3600),
        "host_key_alias": NAMES,
    },
)
OPTIONS = {
    "port": "Port",
    "user": "User",
    "jump": "ProxyJump",
    "identities_only": "IdentitiesOnly",
    "compression": "Compression",
    "address_family": "AddressFamily",
    "connect_timeout": "ConnectTimeout",
    "keepalive_interval": "ServerAliveInterval",
    "keepalive_count": "ServerAliveCountMax",
    "host_key_alias": "HostKeyAlias",
    "identity_files": "IdentityFile",
    "certificate_files": "CertificateFile",
}


@given(TARGETS)
def test_what_is_said_is_what_is_meant(fields: dict[str, object]) -> None:
    words = ["ssh"]
    for name, value in fields.items():
        if name != "host":
            for each in value if isinstance(value, tuple) else (value,):
                shown = {True: "yes", False: "no"}[each] if isinstance(each, bool) else each
                words += ["-o", f"{OPTIONS[name]}={shown}"]
    line = shlex.join([*words, str(fields["host"])])
    if len(line) <= 2_000:
        assert parse_ssh(line) == SshTarget.model_validate({"command": line, **fields})


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1))
def test_an_identity_file_may_be_called_anything(name: str) -> None:
    line = f"ssh -i {shlex.quote(name)} host"
    if line != line.strip():
        return
    assert parse_ssh(line).identity_files == (name,)
