"""`--sharens`: processes that the same parent started, and that ask for the same container, are in one.

Who comes first makes it, as an instance without a program of its own; everybody, the first one too, then goes in by its door.
It ends with the last of them. Of many that come at once one can make the door; the others wait at it.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from typing import TYPE_CHECKING, NoReturn

from soliton import core
from soliton.api import instance as instances
from soliton.api import layers
from soliton.errors import FAILURE, SolitonError
from soliton.launch import doors
from soliton.launch import instance as records

if TYPE_CHECKING:
    import socket

    from soliton.launch.plan import Plan
    from soliton.launch.request import ActionRequest

#: How often a container may end just before this process comes in.
_ATTEMPTS = 100
#: How often it is looked, 5 ms apart, whether who makes the door has opened it: a busy machine may keep them from it for a while.
_LOOKS = 12_000


def share(request: ActionRequest, plan: Plan, image: str) -> NoReturn:
    """This process becomes the program in the container of its siblings. image: path of the image."""
    if request.limits is not None:
        raise SolitonError(
            "limits of resources and `--sharens` exclude each other",
            why="the container belongs to several processes, of which each asks for itself",
            remedy="give the limits to the job, or leave one of them out",
        )
    number, digest = os.getppid(), _digest(plan)
    name, token = f"soliton-{os.getuid()}-sharens-{digest[:32]}", digest[32:]
    attempts = looks = 0
    while attempts < _ATTEMPTS and looks < _LOOKS:
        visitor = doors.knock(name, token)
        if visitor is None:
            door = doors.make(name)
            if door is None:
                looks += 1
                time.sleep(0.005)  # Somebody is just making it.
                continue
            with door:
                layers.require_free(plan)
                # Before anybody listens: the container finds its first process waiting.
                visitor = doors.knock(name, token)
                assert visitor is not None
                label = f"sharens-{number}-{digest[:8]}"
                _make(request, plan, image, label, instances.Door(door, name, token, shared=True), visitor)
        namespaces = doors.come_in(visitor)
        if namespaces:
            for fd in namespaces:
                os.set_inheritable(fd, True)
            core.become("join", {"plan": instances.inside(plan), "namespaces": namespaces})
        visitor.close()
        attempts += 1
    raise SolitonError(
        "the container of this process's siblings cannot be joined",
        why="it ends again and again just before"
        if attempts == _ATTEMPTS
        else "a process that has taken its name does not make it",
    )


def _digest(plan: Plan) -> str:
    """Of everything that two processes must have in common: parent, what the container is, and where they come from."""
    parent = records.process(os.getppid())
    own = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("user", "mnt", "pid", "net")]
    root = os.stat("/")
    container = core.encode(plan)
    del container["process"]
    text = json.dumps([str(parent), own, root.st_dev, root.st_ino, core.program_identity(), container])
    return hashlib.sha256(text.encode()).hexdigest()


def _make(
    request: ActionRequest,
    plan: Plan,
    image: str,
    label: str,
    door: instances.Door,
    visitor: socket.socket,
) -> None:
    """Starts the container from a process between, so that the program does not find children that it has not started."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        status = FAILURE
        try:
            os.close(read_end)
            # Else it would look as if the first process were there when it has gone.
            visitor.close()
            place = instances.writable_place()
            instances.launch(plan, place, label, request, image=image, door=door)
            status = 0
        except instances.Told as failure:
            status = failure.status
        except SolitonError as failure:
            words = {
                "what": failure.what,
                "why": failure.why,
                "remedy": failure.remedy,
                "status": failure.status,
            }
            os.write(write_end, json.dumps(words).encode())
        finally:
            os._exit(status)
    os.close(write_end)
    with open(read_end, "rb") as stream:
        told = stream.read()
    _, ended = os.waitpid(child, 0)
    if told:
        heard = json.loads(told)
        raise SolitonError(heard.pop("what"), **heard)
    if ended:
        raise SystemExit(os.waitstatus_to_exitcode(ended) if os.WIFEXITED(ended) else FAILURE)
