"""The site's rules against what is asked for. Pure; imported only where the site has a configuration.

What a rule forbids is an error that names the rule: a confinement or a bind is never left out silently. Rules bind everybody but root.
"""

from __future__ import annotations

from soliton.errors import ImageError, LaunchError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from soliton.images.detect import Image
    from soliton.launch.plan import Identity, Namespace
    from soliton.launch.request import ActionRequest
    from soliton.site.config import Config
    from soliton.site.host import Host

#: Options that show a place of the host that the user chooses.
_OF_THE_USER = ("bind", "mount", "data", "home", "workdir")


def require_request(
    request: ActionRequest,
    config: Config,
    host: Host,
    identity: Identity,
    namespaces: tuple[Namespace, ...],
) -> None:
    """Raises LaunchError for what the site does not allow. request: settled."""
    if host.privileged:
        return
    if not config.user_bind_control:
        for option in _OF_THE_USER:
            if getattr(request, option):
                given = request.origins.get(option, (f"--{option}",))[0]
                raise _forbidden(f"`{given}`", "user-bind-control = false", f"leave `{given}` out")
    if identity.uid_map and not config.allow_user_ns:
        raise _forbidden("a user namespace", "allow-user-ns = false", "only root can run containers here")
    allowed = {"pid": config.allow_pid_ns, "ipc": config.allow_ipc_ns, "uts": config.allow_uts_ns}
    for name in namespaces:
        if not allowed.get(name, True):
            raise _forbidden(
                f"{'an' if name == 'ipc' else 'a'} {name.upper()} namespace of its own",
                f"allow-{name}-ns = false",
                "leave the option out that asks for it",
            )


def require_image(
    image: Image, config: Config, *, path: str, owner: tuple[str, int], group: tuple[str, int]
) -> None:
    """Raises ImageError for an image that the site does not allow.

    path: of the image, links resolved. owner, group: name and number.
    """
    kinds = {
        "sif": ("allow-container-sif", config.allow_container_sif),
        "squashfs": ("allow-container-squashfs", config.allow_container_squashfs),
        "ext3": ("allow-container-extfs", config.allow_container_extfs),
        "sandbox": ("allow-container-dir", config.allow_container_dir),
    }
    name, allowed = kinds.get(image.kind, ("", True))
    if not allowed:
        raise _refused(image, f"the site has `{name} = false`")
    if image.encryption and not config.allow_container_encrypted:
        raise _refused(image, "the site has `allow-container-encrypted = false`")
    if config.limit_container_owners and not _is_listed(owner, config.limit_container_owners):
        raise _refused(
            image,
            f"it belongs to {owner[0]}, and the site has `limit-container-owners`",
            config.limit_container_owners,
        )
    if config.limit_container_groups and not _is_listed(group, config.limit_container_groups):
        raise _refused(
            image,
            f"its group is {group[0]}, and the site has `limit-container-groups`",
            config.limit_container_groups,
        )
    if config.limit_container_paths and not any(_is_below(path, top) for top in config.limit_container_paths):
        raise _refused(
            image, f"it is `{path}`, and the site has `limit-container-paths`", config.limit_container_paths
        )


def _is_listed(who: tuple[str, int], listed: tuple[str, ...]) -> bool:
    return who[0] in listed or str(who[1]) in listed


def _is_below(path: str, top: str) -> bool:
    """By whole names: `/images` is not above `/images-of-mallory`."""
    top = top.rstrip("/")
    return path == top or path.startswith(f"{top}/")


def _forbidden(what: str, rule: str, remedy: str) -> LaunchError:
    return LaunchError(f"{what} is not allowed here", why=f"the site has `{rule}`", remedy=remedy)


def _refused(image: Image, why: str, allowed: tuple[str, ...] = ()) -> ImageError:
    return ImageError(
        f"the image `{image.path}` is not allowed here",
        why=why,
        remedy=f"allowed: {', '.join(allowed)}" if allowed else "`soliton config show` lists what is allowed",
    )
