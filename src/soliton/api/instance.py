"""Instances: start, find, stop and join containers in the background."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import secrets
import select
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from soliton import core, messages
from soliton.api.action import find_image, prepare, reporter, trace
from soliton.errors import LaunchError, SolitonError, TargetError
from soliton.launch import doors
from soliton.launch import instance as records
from soliton.launch.binds import parse_home
from soliton.launch.compile import compile as compile_plan
from soliton.launch.instance import Instance, Place
from soliton.launch.mounts import home_of
from soliton.launch.plan import DirectoryRoot, ReadOnlySurface
from soliton.record import replace
from soliton.site import config as configuration
from soliton.site import host as hosts
from soliton.site import paths

if TYPE_CHECKING:
    import subprocess

    from soliton.api.pull import PullOptions
    from soliton.launch.plan import Plan
    from soliton.launch.request import ActionRequest

PREFIX = "instance://"
#: Tells a monitor that what it watches over is to end (core/src/launch/instance.rs).
_END = signal.SIGPWR
#: How long killed processes may take to be gone.
_PATIENCE = 10.0


def places(user: str | None = None) -> list[Place]:
    """Where instances of a user (the caller, if None) are recorded on this host, the preferred place first."""
    import pwd

    host = os.uname().nodename.replace("/", "_") or "localhost"
    if user is not None and user != paths.name_of_caller():
        if os.geteuid() != 0:
            raise SolitonError(
                f"the instances of `{user}` are not yours", why="only root may look at those of others"
            )
        try:
            entry = pwd.getpwnam(user)
        except KeyError:
            raise SolitonError(f"there is no user `{user}`") from None
        return [Place.below(os.path.join(entry.pw_dir, ".apptainer"), host, user)]
    home = paths.home_of_caller(os.environ)
    return [
        Place.below(paths.records_of_user(os.environ, home), host, paths.name_of_caller()),
        Place.below(paths.runtime(os.environ, os.getuid()), host, paths.name_of_caller()),
    ]


def writable_place() -> Place:
    """The first place that can be written: the home may be read-only, or its quota used up."""
    preferred, on_this_machine = places()
    try:
        preferred.make()
    except OSError as error:
        refusal = error
    else:
        if os.access(preferred.records, os.W_OK):
            return preferred
        refusal = PermissionError(13, "permission denied")
    top = paths.runtime(os.environ, os.getuid())
    with contextlib.suppress(OSError):
        os.makedirs(top, mode=0o700, exist_ok=True)
        status = os.lstat(top)
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077:
            on_this_machine.make()
            return on_this_machine
    raise _unrecorded(preferred, refusal)


def _unrecorded(place: Place, refusal: OSError) -> SolitonError:
    return SolitonError(
        f"instances cannot be recorded in `{place.records}`",
        why=refusal.strerror,
        remedy="set SOLITON_CONFIGDIR to a directory that you can write",
    )


@contextlib.contextmanager
def _recording(place: Place) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _unrecorded(place, error) from None


def find(pattern: str = "*", *, user: str | None = None, sharens: bool = False) -> list[Instance]:
    """The living instances whose names match, sorted by name; stale records are taken away.

    sharens: those held for `--sharens` too.
    """
    found: dict[str, Instance] = {}
    for place in places(user):
        for instance in place.all():
            if fnmatch.fnmatchcase(instance.name, pattern) and (sharens or not instance.sharens):
                found.setdefault(instance.name, instance)
    return [found[name] for name in sorted(found)]


def find_one(name: str) -> Instance:
    """The caller's living instance of this name. Raises SolitonError if there is none."""
    records.check_name(name)
    for place in places():
        instance = place.find(name)
        if instance is not None:
            return instance
    raise SolitonError(f"no instance found with name `{name}`", remedy="`instance list` shows those that run")


def start(
    request: ActionRequest,
    name: str,
    *,
    pid_file: str | None = None,
    fetching: Callable[[], PullOptions] | None = None,
) -> Instance:
    """Starts an instance and returns once its payload has been executed. Ctrl-C until then leaves nothing.

    request: with action `start` or `run`. pid_file: where the number of its process 1 is to be written.
    """
    records.check_name(name)
    if request.image.startswith(PREFIX):
        raise SolitonError("an instance cannot be started from another instance", remedy="name its image")
    if any(place.find(name) for place in places()):
        raise records.already(name)
    place = writable_place()
    image = find_image(request, fetching)
    request = replace(request, instance=name, pid=True)
    if request.boot and os.geteuid() != 0:
        # An init insists on being root.
        request = replace(request, fakeroot=True)
    plan = prepare(request, image)
    trace(image, plan)
    with _pid_file(pid_file) as write_pid:
        cgroup = None
        if request.limits is not None:
            from soliton.api.limits import enter as enter_limits

            cgroup = enter_limits(request.limits, name)
        with _own_group(name) if request.boot and cgroup is None else contextlib.nullcontext():
            instance = launch(plan, place, name, request, image=image.path, cgroup=cgroup)
        write_pid(instance.pid)
    return instance


def _own_group(name: str) -> contextlib.AbstractContextManager[None]:
    from soliton.site import cgroups

    return cgroups.own(name)


@contextlib.contextmanager
def _pid_file(path: str | None) -> Iterator[Callable[[int], None]]:
    """A file that can be written is opened before anything starts; it goes again if nothing does."""
    if path is None:
        yield lambda pid: None
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    existed = os.path.lexists(path)
    try:
        fd = os.open(path, flags, 0o644)
    except OSError as error:
        raise TargetError(f"the pid file `{path}` cannot be written", why=error.strerror) from None
    written = False

    def write(pid: int) -> None:
        nonlocal written
        os.ftruncate(fd, 0)
        os.write(fd, f"{pid}\n".encode("ascii"))
        written = True

    try:
        yield write
    finally:
        os.close(fd)
        if not written and not existed:
            with contextlib.suppress(OSError):
                os.unlink(path)


@dataclass(frozen=True)
class Door:
    """Where others come in. shared: the container ends with the last of them."""

    socket: socket.socket
    name: str
    token: str
    shared: bool = False

    @staticmethod
    def fresh() -> Door:
        name, token = f"soliton-{os.getuid()}-{secrets.token_hex(16)}", secrets.token_hex(16)
        made = doors.make(name)
        assert made is not None  # Nobody has guessed the name.
        return Door(made, name, token)


def launch(
    plan: Plan,
    place: Place,
    name: str,
    request: ActionRequest,
    *,
    image: str,
    cgroup: str | None = None,
    door: Door | None = None,
) -> Instance:
    """Has the core carry out a plan in the background, under a name that is the caller's from here on.

    door: by which others come in; None makes one.
    """
    shared = door is not None and door.shared
    with _recording(place):
        # Whoever has the door of a shared container is the only one: what was behind it before has come to its end.
        claim = place.claim(name, patient=shared)
    try:
        out_path, err_path = (os.devnull, os.devnull) if shared else place.log_paths(name)
        with contextlib.ExitStack() as open_files:
            if door is None:
                door = Door.fresh()
                open_files.callback(door.socket.close)
            descriptors = [
                _log(out_path, open_files),
                _log(err_path, open_files),
                _directory(place.records, open_files),
            ]
            ours, theirs = socket.socketpair()
            open_files.callback(theirs.close)
            title = f"Apptainer instance: {place.user} [{name}]"
            ask = {
                "plan": plan,
                "channel": theirs.fileno(),
                "out": descriptors[0],
                "err": descriptors[1],
                "records": descriptors[2],
                "name": name,
                "title": title,
                "door": door.socket.fileno(),
                "token": door.token,
                "shared": door.shared,
            }
            passed = [theirs.fileno(), *descriptors, door.socket.fileno()]
            with ours:
                child = core.start("instance", ask, pass_fds=passed, title=title)
                open_files.close()
                starter = _Starter(child, ours)
                try:
                    pid = starter.until_ready()
                    monitor = records.process(child.pid)
                    if monitor is None:
                        raise starter.failure()
                    instance = Instance(
                        name=name,
                        user=place.user,
                        image=image,
                        pid=pid,
                        monitor=monitor,
                        monitor_pid=monitor.pid,
                        log_out="" if shared else out_path,
                        log_err="" if shared else err_path,
                        cgroup=cgroup,
                        userns=bool(plan.identity.uid_map),
                        fakeroot=request.fakeroot,
                        contain=request.settled().contain,
                        init=request.boot,
                        home=plan.process.environment.fixed.get("HOME", "/"),
                        sharens=shared,
                        door=door.name,
                        token=door.token,
                    )
                    with _recording(place):
                        claim.record(instance)
                    starter.go()
                    # It lives on without this process.
                    child.returncode = 0
                    return instance
                except BaseException:
                    starter.abandon()
                    raise
    except BaseException:
        claim.release()
        raise


def _log(path: str, open_files: contextlib.ExitStack) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o644)
    except OSError as error:
        raise TargetError(f"the log `{path}` cannot be written", why=error.strerror) from None
    open_files.callback(os.close, fd)
    return fd


def _directory(path: str, open_files: contextlib.ExitStack) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    open_files.callback(os.close, fd)
    return fd


class _Starter:
    """The conversation with the core while an instance starts; its words are in core/src/launch/instance.rs."""

    def __init__(self, child: subprocess.Popen[bytes], channel: socket.socket) -> None:
        self.child = child
        self.channel = channel
        self.pid: int | None = None
        self.words = b""

    def _word(self) -> str | None:
        """The next line; None when everybody over there has closed the channel."""
        while b"\n" not in self.words:
            heard = self.channel.recv(256)
            if not heard:
                return None
            self.words += heard
        line, _, self.words = self.words.partition(b"\n")
        return line.decode("ascii", "replace")

    def until_ready(self) -> int:
        ready = False
        while not ready or self.pid is None:
            word = self._word()
            if word is None or word.startswith("failed "):
                raise self.failure(word)
            if word.startswith("pid "):
                self.pid = int(word[4:])
            ready = ready or word == "ready"
        return self.pid

    def go(self) -> None:
        self.channel.sendall(b"!")
        word = self._word()
        if word is not None:
            raise self.failure(word)

    def failure(self, word: str | None = None) -> SolitonError:
        """What the core has told already. word: its last one, with the status; None: it may still be telling."""
        while word is None and self.child.poll() is None and not self._payload_is_gone():
            time.sleep(0.01)
        status = (word or "").removeprefix("failed ")
        return Told(int(status) if status.isdigit() else None)

    def _payload_is_gone(self) -> bool:
        """Whether process 1 has taken its place for good although nobody said that all was ready."""
        try:
            with open(f"/proc/{self.pid}/comm", encoding="ascii", errors="replace") as name:
                return name.read().strip() == "soliton-init"
        except OSError:
            return False

    def abandon(self) -> None:
        """Ends whatever has been started, and waits until it has gone."""
        first = None
        if self.pid is not None:
            with contextlib.suppress(OSError):
                first = os.pidfd_open(self.pid)
        self.child.kill()
        self.child.wait()
        if first is not None:
            select.select([first], [], [], _PATIENCE)
            os.close(first)


class Told(LaunchError):
    """The core has explained the failure itself."""

    def __init__(self, status: int | None = None) -> None:
        super().__init__("", status=status)


def stop(found: Sequence[Instance], *, number: int | None, timeout: float) -> list[Instance]:
    """Asks instances to end by a signal, and kills those that have not ended in time. Returns those that were killed.

    number: of the signal; None stands for the usual one, which an init has of its own.
    """
    from soliton.site import cgroups

    running: dict[int, Instance] = {}
    groups: list[str] = []
    with contextlib.ExitStack() as open_files:
        for instance in found:
            if instance.monitor is None:
                raise SolitonError(
                    f"instance `{instance.name}` was started by another program",
                    remedy="stop it with that one",
                )
            try:
                fd = open_files.enter_context(records.opened(instance.monitor))
            except SolitonError:
                continue
            running[fd] = instance
            if instance.init:
                with contextlib.suppress(SolitonError):
                    groups.append(cgroups.look(instance.monitor.pid).path)
            if number == signal.SIGKILL:
                _kill(instance)
            else:
                instance.monitor.signal(_usual(instance) if number is None else number)
                if not instance.init:
                    instance.monitor.signal(_END)
        _wait_for(running, timeout if number != signal.SIGKILL else _PATIENCE)
        killed = list(running.values())
        for instance in killed:
            _kill(instance)
        _wait_for(running, _PATIENCE)
        for instance in running.values():
            # Process 1 is gone, and its monitor, which was stopped, has not noticed.
            if instance.monitor is not None:
                instance.monitor.signal(signal.SIGKILL)
        _wait_for(running, _PATIENCE)
    for group in groups:
        cgroups.remove(group)
    for place in places():
        for instance in found:
            place.find(instance.name)
    return killed


def _usual(instance: Instance) -> int:
    """The signal that asks an instance to end: systemd's own, as other inits take it SIGTERM, and SIGINT where the image was not booted."""
    if not instance.init:
        return signal.SIGINT
    try:
        with open(f"/proc/{instance.pid}/comm", encoding="ascii", errors="replace") as name:
            return signal.SIGRTMIN + 3 if name.read().strip() == "systemd" else signal.SIGTERM
    except OSError:
        return signal.SIGTERM


def _kill(instance: Instance) -> None:
    """Kills process 1, with which all goes that is inside; its monitor then takes the record away."""
    monitor = instance.monitor
    with contextlib.suppress(OSError):
        fd = os.pidfd_open(instance.pid)
        try:
            fields = records.stat_fields(instance.pid)
            # A number that is somebody else's by now has another parent.
            if (
                monitor
                and fields
                and (int(fields[1]) == monitor.pid or monitor == records.process(instance.pid))
            ):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
        finally:
            os.close(fd)


def _wait_for(running: dict[int, Instance], timeout: float) -> None:
    """Takes those that end in time off the table of pidfds."""
    until = time.monotonic() + timeout
    poller = select.poll()
    for fd in running:
        poller.register(fd, select.POLLIN)
    while running:
        rest = until - time.monotonic()
        for fd, _ in poller.poll(max(0, int(rest * 1000))):
            poller.unregister(fd)
            del running[fd]
        if rest <= 0:
            return


def join(request: ActionRequest) -> NoReturn:
    """Runs a command in an instance; this process becomes it."""
    instance = find_one(request.image.removeprefix(PREFIX))
    enter(request, instance)


def enter(request: ActionRequest, instance: Instance) -> NoReturn:
    if instance.monitor is None:
        raise SolitonError(
            f"instance `{instance.name}` was started by another program", remedy="join it with that one"
        )
    plan = plan_to_join(request, instance, hosts.look())
    if instance.cgroup is not None:
        from soliton.site.cgroups import join as join_group

        join_group(instance.cgroup)
    messages.debug(f"joining the namespaces of process {instance.monitor.pid}")
    visitor = doors.knock(instance.door, instance.token)
    namespaces = doors.come_in(visitor) if visitor is not None else []
    if not namespaces:
        raise LaunchError(f"the instance `{instance.name}` cannot be joined", why="it has ended")
    for fd in namespaces:
        os.set_inheritable(fd, True)
    core.become("join", {"plan": plan, "namespaces": namespaces})


def plan_to_join(request: ActionRequest, instance: Instance, host: hosts.Host) -> Plan:
    """The command, as whom and with which environment; what is mounted is the instance's affair."""
    chosen_home = parse_home(request.home, cwd=host.cwd or "/")[1] if request.home else None
    request = replace(
        request.settled(),
        instance=None if instance.sharens else instance.name,
        fakeroot=instance.fakeroot,
        bind=(),
        mount=(),
        home=None,
        no_mount=(),
        scratch=(),
        workdir=None,
        writable=False,
        writable_tmpfs=False,
        compat=False,
        containall=False,
        boot=False,
        contain=instance.contain,
        pid=False,
        ipc=False,
        uts=False,
        net=False,
        hostname=None,
        dns=(),
    )
    plan = compile_plan(
        request,
        DirectoryRoot("/"),
        instance.image,
        configuration.current().config,
        host,
        subordinate=None,
        reporter=reporter(),
    )
    home, default = chosen_home or instance.home, home_of(request, host)[1]
    process = plan.process
    environment = replace(process.environment, fixed={**process.environment.fixed, "HOME": home})
    cwd = (
        process.cwd
        if process.cwd_required
        else tuple(home if path == default else path for path in process.cwd)
    )
    process = replace(process, environment=environment, cwd=cwd)
    return inside(replace(plan, level=messages.level(), process=process))


def inside(plan: Plan) -> Plan:
    """What of a plan is left for who comes into a container that is there: the process."""
    return replace(
        plan,
        root=DirectoryRoot("/"),
        surface=ReadOnlySurface(),
        mounts=(),
        namespaces=(),
        hostname=None,
        helper=None,
        netns=None,
        sharing=None,
        process=replace(plan.process, init=False),
    )
