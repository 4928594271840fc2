"""What a node needs of the machine, what it changes there, and how all of that goes away again."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

BRIDGE = "florin0"
ADDRESS = "198.18.77.1"
"""The node's, on the bridge of its pods; of a range for measurements (RFC 2544), which networks do not use."""
PODS = "198.18.77.0/24"
SERVICES = "198.19.77.0/24"
PROGRAMS = {
    "containerd": "containerd",
    "runc": "runc",
    "dockerd": "docker.io",
    "iptables": "iptables",
    "ip": "iproute2",
    "mmdebstrap": "mmdebstrap",
}
"""Program → the Debian package that has it."""
BUILDS = "florin-builds"
"""The control group that images are built in."""
PLUGINS = Path("/usr/lib/cni")
GROUPS = Path("/sys/fs/cgroup")
_LOCK = Path("/run/florin-node")
_KERNEL = (
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/route_localnet",
    "net/bridge/bridge-nf-call-iptables",
    "net/netfilter/nf_conntrack_tcp_timeout_established",
    "net/netfilter/nf_conntrack_tcp_timeout_close_wait",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
"""What the node's programs set."""
_PLACES = (
    "/var/lib/kubelet",
    "/var/lib/cni",
    "/var/log/containers",
    "/var/log/pods",
    "/run/containerd",
    "/run/docker",
    "/run/netns",
)
"""Where the node's programs write without being told to."""
_PATH = ("/usr/sbin", "/sbin")


def environment() -> dict[str, str]:
    """That of the node's programs: an ordinary user's path may lack theirs."""
    found = os.environ.get("PATH", "/usr/bin:/bin").split(":")
    return {**os.environ, "PATH": ":".join([*found, *(one for one in _PATH if one not in found)])}


def require() -> None:
    """Raises AssertionError with all that this machine lacks for a node."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise AssertionError(
            "A node needs Linux and root, for containers and their network. Run `make cluster` as root, or name a"
            " cluster of yours: KUBECONFIG=… IMAGES=registry.example/florin make cluster."
        )
    path = environment()["PATH"]
    missing = {package for program, package in PROGRAMS.items() if shutil.which(program, path=path) is None}
    if not (PLUGINS / "bridge").exists():
        missing.add("containernetworking-plugins")
    if missing:
        raise AssertionError(
            f"A node needs what is missing here: apt-get install --no-install-recommends {' '.join(sorted(missing))}"
        )


@contextmanager
def reserved(folder: Path, cache: Path) -> Iterator[None]:
    """This machine for the one node that it can have. What a node that was killed left behind is cleared first.

    The folder goes away at the end, the cache stays. Raises AssertionError while another node runs. At the end all that
    the node's programs changed is as it was before.
    """
    with _LOCK.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AssertionError(f"Another run has its node here ({_LOCK}).") from None
        if before := _LOCK.read_text().splitlines():
            clear(*map(Path, before))
        if groups := _groups():
            raise AssertionError(f"Another kubelet runs pods here, and a machine can have one: {groups[0]}")
        places = [Path(one) for one in _PLACES if not Path(one).exists()]
        kernel = {name: Path("/proc/sys", name).read_text() for name in _KERNEL if Path("/proc/sys", name).exists()}
        _LOCK.write_text(f"{folder}\n{cache}\n")
        try:
            yield
        finally:
            clear(folder, cache)
            for name, value in kernel.items():
                if Path("/proc/sys", name).read_text() != value:
                    Path("/proc/sys", name).write_text(value)
            for place in places:
                shutil.rmtree(place, ignore_errors=True)
            left = traces(folder, cache)
            _LOCK.unlink()
            if left:
                raise AssertionError("The node left behind: " + "; ".join(left))


def make_bridge() -> None:
    """The pods' network, with the node's own address on it, before anything listens there."""
    _run("ip", "link", "add", BRIDGE, "type", "bridge")
    _run("ip", "address", "add", f"{ADDRESS}/24", "dev", BRIDGE)
    _run("ip", "link", "set", BRIDGE, "up")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    Path("/proc/sys/net/bridge/bridge-nf-call-iptables").write_text("1")


def clear(folder: Path, cache: Path) -> None:
    """Ends what runs in pods and for the folder, undoes mounts, networks, rules and groups, and removes the folder."""
    _end(lambda: [*_in_groups(), *_of(folder)])
    # Processes that have been killed keep their mounts for a moment.
    _until(lambda: not [target for target in reversed(_mounts(folder, cache)) if not _unmount(target)])
    for name in _networks():
        subprocess.run(["ip", "netns", "delete", name], env=environment(), check=False, capture_output=True)
    if Path("/sys/class/net", BRIDGE).exists():
        _run("ip", "link", "delete", BRIDGE)
    for family in ("iptables", "ip6tables"):
        _drop_rules(family)
    _until(lambda: all(_remove_group(one) for one in _groups()))
    if folder.exists() and not _mounts(folder):
        shutil.rmtree(folder)


def traces(folder: Path, cache: Path) -> list[str]:
    """What there still is of a node; nothing after `clear`."""
    left = [f"the mount {target}" for target in _mounts(folder, cache)]
    left += [f"the network {name}" for name in _networks()]
    left += [f"the process {pid}" for pid in _of(folder)]
    left += [f"the group {one}" for one in _groups()]
    left += [f"the rule {line}" for family in ("iptables", "ip6tables") for line in _rules(family) if is_ours(line)]
    if Path("/sys/class/net", BRIDGE).exists():
        left.append(f"the bridge {BRIDGE}")
    return left


def _run(*command: str, stdin: str | None = None) -> str:
    done = subprocess.run(command, env=environment(), input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def _until(is_done: Callable[[], bool], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not (done := is_done()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return done


def _mounts(*folders: Path) -> list[str]:
    """Below the folders, in the order in which they were made."""
    targets = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [target for target in targets if target.startswith(tuple(f"{folder}/" for folder in folders))]


def _unmount(target: str) -> bool:
    return subprocess.run(["umount", target], check=False, capture_output=True).returncode == 0


def _networks() -> list[str]:
    """Of pods: what the container runtime calls cni-UUID."""
    return [path.name for path in Path("/run/netns").glob("cni-*")]


def _groups() -> list[Path]:
    """Control groups of pods and builds, of each controller (version 1) or of all (version 2), the innermost first."""
    roots = [root / name for root in (GROUPS, *GROUPS.glob("*")) for name in ("kubepods", BUILDS)]
    found = {path for root in roots if root.is_dir() for path in (root, *root.rglob("*")) if path.is_dir()}
    return sorted(found, key=lambda path: len(path.parts), reverse=True)


def _remove_group(path: Path) -> bool:
    with contextlib.suppress(OSError):
        path.rmdir()
    return not path.exists()


def _in_groups() -> list[int]:
    found: set[int] = set()
    for group in _groups():
        with contextlib.suppress(OSError):
            found |= {int(pid) for pid in (group / "cgroup.procs").read_text().split()}
    return sorted(found)


def _of(folder: Path) -> list[int]:
    """Processes that name the folder in their command, such as a container's shim; none of ours or above us."""
    found = []
    mine = {os.getpid(), os.getppid()}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f"{folder}/".encode() in path.read_bytes() and int(path.parent.name) not in mine:
                found.append(int(path.parent.name))
    return found


def _end(find: Callable[[], list[int]]) -> None:
    def ended() -> bool:
        found = find()
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not found

    assert _until(ended), f"processes do not end: {find()}"


def _rules(family: str) -> list[str]:
    return _run(f"{family}-save").splitlines()


def is_ours(line: str) -> bool:
    """A chain or rule of kubelet, kube-proxy or the network plugins; all of them carry one of these names."""
    return re.search(r"\b(KUBE|CNI)-", line) is not None


def _drop_rules(family: str) -> None:
    rules = _rules(family)
    kept = [line for line in rules if not is_ours(line)]
    if kept != rules:
        _run(f"{family}-restore", stdin="\n".join(kept) + "\n")
