"""Containers by the Docker SDK, every call blocking: start a leased one, see it removed.

A container lives on a lease: its PID 1 (guest.py) exits when its stdin closes, and the engine then removes
it. So dropping the socket is all that ending one takes, and a driver that is killed leaves no running one.
What it leaves that never started, its reaper removes (reaper.py).
"""

import json
import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from ..errors import SandboxError, SandboxLost, SandboxUnavailable
from ..sandbox import SandboxSpec
from .engine import API_TIMEOUT_S, again, engine_address, open_engine
from .owner import LABEL, labels
from .reapers import reaper_at
from .sweep import sweep_once

BASE_IMAGE = "palaestra-base:bookworm"
"""What runs when the spec names no image; `palaestra sandbox image` builds it."""
MIN_MEMORY_MB = 32
GUEST_MB = 16
"""Memory that files can never take, so that the guest survives a full disk."""
WORKSPACE = "/tmp/workspace"

# The guest's modules, each in its own file, become packages without a disk inside the container. Each comes
# after those that it imports.
GUEST_MODULES = (
    *map(
        "_inside.{}".format,
        [
            "linux",
            "pages",
            "wire",
            "brand",
            "cell",
            "files",
            "program",
            "command",
            "reactor",
            "feeder",
            "verdict",
            "job",
            "relay",
            "loop",
            "warmup",
        ],
    ),
    "_docker.guest_walls",
    "_docker.guest",
)
BOOT = """
import sys, types
del sys.path[0]
def package(name):
    made = sys.modules[name] = types.ModuleType(name)
    made.__path__ = []
for name in ("box", "box._inside", "box._docker"):
    package(name)
for name, source in zip(sys.argv[1::2], sys.argv[2::2]):
    module = sys.modules["box." + name] = types.ModuleType("box." + name)
    module.__package__, _, last = ("box." + name).rpartition(".")
    setattr(sys.modules[module.__package__], last, module)
    exec(compile(source, name, "exec"), module.__dict__)
sys.argv[1:] = []
module.main()
"""

# What Docker's default filter forbids a container without capabilities, and beyond it what older engines let
# through: io_uring, and every socket family but Unix and IP (vsock reaches the hypervisor from any network).
FORBIDDEN_CALLS = """
    _sysctl acct add_key bpf chroot clock_adjtime clock_settime create_module delete_module
    fanotify_init finit_module fsconfig fsmount fsopen fspick get_kernel_syms get_mempolicy init_module
    io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl
    listmount lookup_dcookie mbind migrate_pages mount mount_setattr move_mount move_pages nfsservctl
    open_by_handle_at open_tree open_tree_attr perf_event_open pidfd_getfd pivot_root process_madvise
    query_module quotactl quotactl_fd reboot request_key set_mempolicy set_mempolicy_home_node
    setdomainname sethostname setns settimeofday socketcall statmount stime swapoff swapon sysfs syslog
    umount umount2 unshare uselib userfaultfd ustat vhangup vm86 vm86old vserver
"""
CLONE_NAMESPACES = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
SOCKET_FAMILIES = (1, 2, 10)
"""AF_UNIX, AF_INET, AF_INET6."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """A started container and the only connection to its guest; closing the socket ends it."""

    container: str
    sock: socket.socket


def guest_command() -> list[str]:
    """The command line of PID 1."""
    command = ["python3", "-B", "-c", BOOT]
    for name in GUEST_MODULES:
        command += [
            name,
            Path(__file__).parent.parent.joinpath(*name.split(".")).with_suffix(".py").read_text(),
        ]
    return command


def probe(image: str = BASE_IMAGE) -> None:
    """Raises `SandboxUnavailable`, with the cure, when the SDK, the engine or the image is missing."""
    with open_engine() as (docker, api):
        _check_image(docker, api, image)


def start(spec: SandboxSpec) -> Lease:
    """Create, attach, start. Raises `SandboxUnavailable` or `SandboxLost`, and leaves nothing then."""
    if spec.memory_mb < MIN_MEMORY_MB:
        least = f"at least {MIN_MEMORY_MB}, part of which its guest takes"
        raise SandboxUnavailable(f"a Docker sandbox needs memory_mb of {least}; got {spec.memory_mb}")
    image = spec.image or BASE_IMAGE
    with open_engine() as (docker, api):
        sweep_once(docker, api)
        _check_image(docker, api, image)
        name = f"{LABEL}-{uuid4().hex}"
        sock: socket.socket | None = None
        try:
            with reaper_at(engine_address(docker)).creating(name):
                container = again(docker, lambda: _create(docker, api, name, image, spec))
            sock = _attach(api, container)
            again(docker, lambda: api.start(container))
        except BaseException as error:
            if sock is not None:
                sock.close()
            with suppress(OSError):  # the first error is the one to tell
                api.remove_container(name, force=True, v=True)
            if isinstance(error, docker.errors.NotFound):
                raise SandboxLost(f"a container was gone before its start: {error}") from error
            raise
    return Lease(container=container, sock=sock)


def _create(docker: Any, api: Any, name: str, image: str, spec: SandboxSpec) -> str:
    """The id of the container. May be called again after an error: the name makes it one container."""
    try:
        created = api.create_container(
            image,
            name=name,
            entrypoint=guest_command(),
            command=[],
            user="0:0",
            working_dir="/",
            hostname="sandbox",
            stdin_open=True,
            labels=labels(),
            use_config_proxy=False,  # the host's proxy settings, with their passwords, stay outside
            host_config=_host_config(api, spec),
        )
    except docker.errors.APIError as error:
        if error.status_code != 409:
            raise
        # The engine had made it before it failed, or before its answer was lost.
        created = api.inspect_container(name)
    return str(created["Id"])


def see_removed(container: str) -> None:
    """Return when the container is gone; its lease was dropped before."""
    with suppress(SandboxError), open_engine() as (docker, api), suppress(docker.errors.NotFound):
        try:
            api.wait(container, timeout=API_TIMEOUT_S, condition="removed")
        except OSError:  # the engine is slow or its guest hangs
            api.remove_container(container, force=True, v=True)


def ran_out_of_memory(container: str, since: float) -> bool:
    """Whether the engine saw the kernel kill for memory in this container after `since` (Unix time)."""
    with suppress(SandboxError), open_engine() as (_, api):  # an engine that is gone saw nothing
        filters = {"container": container, "event": "oom"}
        return any(True for _ in api.events(since=int(since), until=int(time.time()) + 1, filters=filters))
    return False


def _host_config(api: Any, spec: SandboxSpec) -> Any:
    memory, shm_mb = spec.memory_mb << 20, spec.memory_mb // 8
    # Files live in memory here. A quarter stays free for what the kernel needs besides their bytes.
    files_mb = min(spec.disk_mb, max(1, (spec.memory_mb - shm_mb - GUEST_MB) * 3 // 4))
    limits = {"core": 0, "nofile": 4096, "memlock": 65536, "msgqueue": 65536}
    return api.create_host_config(
        auto_remove=True,
        network_mode="none",
        ipc_mode="private",
        read_only=True,
        cap_drop=["ALL"],
        cap_add=["SETUID", "SETGID", "KILL"],
        security_opt=["no-new-privileges", "seccomp=" + json.dumps(_seccomp_profile())],
        pids_limit=spec.pids + 1,  # the guest is one
        mem_limit=memory,
        memswap_limit=memory,
        nano_cpus=round(spec.cpus * 1e9),
        shm_size=shm_mb << 20,
        tmpfs={"/tmp": f"rw,exec,nosuid,nodev,mode=1777,size={files_mb}m,nr_inodes={files_mb * 128}"},
        # Segments and queues would outlive their program, and nothing else bounds them.
        sysctls={"kernel.shm_rmid_forced": "1", "kernel.msgmni": "16", "kernel.sem": "250 4000 32 16"},
        ulimits=[{"Name": name, "Soft": value, "Hard": value} for name, value in limits.items()],
        log_config={"Type": "none"},  # the frames on stdout are not a log
    )


@cache
def _seccomp_profile() -> dict[str, Any]:
    def refuse(names: Sequence[str], errno: int, *args: dict[str, Any]) -> dict[str, Any]:
        return {"names": list(names), "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": list(args)}

    def family(compare: str, value: int) -> dict[str, Any]:
        return refuse(["socket"], 1, {"index": 0, "value": value, "op": compare})

    last = max(SOCKET_FAMILIES)
    rules = [refuse(FORBIDDEN_CALLS.split(), 1)]
    rules.append(refuse(["clone3"], 38))  # ENOSYS: libraries then use clone, whose flags a filter can see
    for flag in CLONE_NAMESPACES:
        masked = {"index": 0, "value": flag, "valueTwo": flag, "op": "SCMP_CMP_MASKED_EQ"}
        rules.append(refuse(["clone"], 1, masked))
    rules += [family("SCMP_CMP_EQ", value) for value in range(last) if value not in SOCKET_FAMILIES]
    rules.append(family("SCMP_CMP_GT", last))
    return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}


def _check_image(docker: Any, api: Any, image: str) -> None:
    try:
        config: Any = again(docker, lambda: api.inspect_image(image))["Config"]
    except docker.errors.ImageNotFound as error:
        cure = "`palaestra sandbox image` builds it" if image == BASE_IMAGE else f"docker pull {image}"
        raise SandboxUnavailable(f"the Docker engine has no image {image!r}: {cure}") from error
    if config and config.get("Volumes"):
        volumes = ", ".join(config["Volumes"])
        raise SandboxUnavailable(
            f"image {image!r} declares VOLUME {volumes}, a disk without a limit: rebuild it"
        )


def _attach(api: Any, container: str) -> socket.socket:
    """The container's stdin and stdout as a socket of our own."""
    params = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
    wrapped = api.attach_socket(container, params=params)
    try:
        # The SDK's wrapper closes with its HTTP response; a duplicate does not.
        return socket.socket(fileno=os.dup(wrapped.fileno()))
    finally:
        wrapped._response.close()
        wrapped.close()
