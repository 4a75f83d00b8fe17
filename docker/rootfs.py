"""The image of a Dockerfile without a container engine: the same steps in a chroot, on a base that debootstrap makes.

    docker/rootfs.py build docker/Dockerfile FOLDER
    docker/rootfs.py run [-e NAME=VALUE] [-v /HOST:/FOLDER] docker/Dockerfile FOLDER [COMMAND …]

`build` makes FOLDER the image's root. `run` is like `docker run --read-only --tmpfs /tmp --cap-drop ALL`, in this
machine's network; what -v mounts is read-only. Both need root, and unshare, setpriv and mount of util-linux; `build`
needs debootstrap.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import dockerfile

ROOT = Path(__file__).parent.parent
MIRROR = "http://deb.debian.org/debian"
# What Debian's slim images leave out of a minimal system.
NOT_SLIM = (
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "usr/share/groff",
    "usr/share/lintian",
    "usr/share/linda",
)
APT_KEEPS_NOTHING = 'Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache ""; APT::Keep-Downloaded-Packages "false";\n'
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PIP_CERTIFICATES = "run/pip-certificates.pem"


def build(stages: list[dockerfile.Stage], folder: Path) -> None:
    bases: dict[str, Path] = {}
    roots: dict[str, Path] = {}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        for stage in stages:
            if stage.image not in bases:
                bases[stage.image] = _base(stage.image, Path(temporary, "base"))
            root = Path(temporary, stage.name or "image")
            subprocess.run(["cp", "--archive", str(bases[stage.image]), str(root)], check=True)
            for step in stage.steps:
                _carry_out(step, root, roots, _environment(stage))
            roots[stage.name] = root
        if folder.exists():
            shutil.rmtree(folder)
        roots[""].rename(folder)


def _base(image: str, root: Path) -> Path:
    distribution, _, tag = image.partition(":")
    if distribution != "debian" or not tag.endswith("-slim"):
        raise SystemExit(f"rootfs.py: FROM {image}: only debian:…-slim can be made here")
    _say(f"debootstrap {tag.removesuffix('-slim')}")
    subprocess.run(["debootstrap", "--variant=minbase", tag.removesuffix("-slim"), str(root), MIRROR], check=True)
    for name in NOT_SLIM:
        shutil.rmtree(root / name, ignore_errors=True)
    for path in (root / "usr/share/doc").rglob("*"):
        if path.name != "copyright" and not path.is_dir():
            path.unlink()
    for name in ("var/cache/apt", "var/lib/apt/lists"):
        shutil.rmtree(root / name)
    (root / "etc/dpkg/dpkg.cfg.d/slim").write_text("".join(f"path-exclude=/{name}/*\n" for name in NOT_SLIM))
    (root / "etc/apt/apt.conf.d/slim").write_text(APT_KEEPS_NOTHING)
    return root


def _carry_out(step: dockerfile.Step, root: Path, roots: dict[str, Path], environment: dict[str, str]) -> None:
    _say(f"{step.name} {step.text}")
    if step.name == "COPY":
        _copy(shlex.split(step.text), root, roots)
    elif step.name == "WORKDIR":
        (root / step.text.lstrip("/")).mkdir(parents=True, exist_ok=True)
    elif step.name == "RUN":
        mounts = [
            *_mounts(root),
            f"mount --bind /etc/resolv.conf {root}/etc/resolv.conf",
            f"mount -t tmpfs none {root}/run",
        ]
        variables = {"PATH": _PATH, "HOME": "/root", "DEBIAN_FRONTEND": "noninteractive", **environment, **_of_pip()}
        if "PIP_CERT" in os.environ:
            mounts.append(f"cp {os.environ['PIP_CERT']} {root}/{_PIP_CERTIFICATES}")
        command = shlex.join(["chroot", str(root), "/bin/sh", "-c", step.text])
        (root / "etc/resolv.conf").touch()
        script = " && ".join([*mounts, f"exec {command}"])
        subprocess.run(["unshare", "--mount", "sh", "-c", script], env=variables, check=True)


def _copy(words: list[str], root: Path, roots: dict[str, Path]) -> None:
    source, files = ROOT, words
    if words[0].startswith("--from="):
        source, files = roots[words[0].removeprefix("--from=")], words[1:]
    *names, to = files
    target = root / to.lstrip("/")
    for name in names:
        found = source / name.lstrip("/")
        if source == ROOT and found == ROOT:
            for path in sent(ROOT):
                (target / path.parent).mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / path, target / path)
        elif found.is_dir():
            shutil.copytree(found, target, symlinks=True, dirs_exist_ok=True)
        else:
            place = target / found.name if to.endswith("/") else target
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(found, place)


def sent(folder: Path) -> Iterator[Path]:
    """The files that .dockerignore leaves: it lists what is wanted of the top folder, and `**/NAME` that isn't."""
    lines = (folder / ".dockerignore").read_text().split()
    wanted = [line[1:] for line in lines if line.startswith("!")]
    unwanted = [line[3:] for line in lines if line.startswith("**/")]
    if lines != ["*", *(f"!{name}" for name in wanted), *(f"**/{name}" for name in unwanted)]:
        raise SystemExit("rootfs.py: .dockerignore: expected *, then !NAME lines, then **/NAME lines")
    for name in wanted:
        for path in [folder / name, *sorted((folder / name).rglob("*"))]:
            inner = path.relative_to(folder)
            if path.is_file() and not any(
                fnmatch.fnmatch(part, not_this) for part in inner.parts for not_this in unwanted
            ):
                yield inner


def run(stage: dockerfile.Stage, root: Path, given: argparse.Namespace) -> None:
    """Replaces this process. What runs is process 1 of its own, has the image's user and no capabilities, and can write
    its volumes and /tmp alone, which are empty."""
    uid, _, gid = stage.last("USER", "0:0").partition(":")
    home = stage.last("WORKDIR", "/")
    owner = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--no-new-privs"]
    powerless = [*owner, "--bounding-set=-all", "--inh-caps=-all"]
    there = ["sh", "-c", f'cd {shlex.quote(home)} && exec "$@"', "sh"]
    command = shlex.join(["chroot", str(root), *powerless, *there, *_command(stage, given.command)])
    writable = [f"mount -t tmpfs -o uid={uid},gid={gid} none {root}{place}" for place in stage.command("VOLUME")]
    mounts = [f"mount --bind {root} {root}", *_mounts(root), *writable, f"mount -t tmpfs none {root}/tmp"]
    for pair in given.volume:
        outside, _, inside = pair.partition(":")
        mounts.append(f"mount --bind -o ro {shlex.quote(outside)} {root}{shlex.quote(inside)}")
    script = " && ".join([*mounts, f"mount -o remount,bind,ro {root}", f"exec {command}"])
    variables = {"HOME": home, "PATH": _PATH, **_environment(stage), **dict(pair.split("=", 1) for pair in given.env)}
    unshare = ["unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "sh", "-c", script]
    os.execvpe(unshare[0], unshare, variables)


def _command(stage: dockerfile.Stage, given: list[str]) -> list[str]:
    return [*stage.command("ENTRYPOINT"), *(given or stage.command("CMD"))]


def _mounts(root: Path) -> list[str]:
    return ["mount --make-rprivate /", f"mount -t proc none {root}/proc", f"mount --rbind /dev {root}/dev"]


def _environment(stage: dockerfile.Stage) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in stage.variables():
        found[name] = value.replace("$PATH", _PATH)
    return found


def _of_pip() -> dict[str, str]:
    """How pip and apt reach their indexes from this machine."""
    names = [name for name in os.environ if name.startswith("PIP_") or name.lower().endswith("_proxy")]
    certificates = {"PIP_CERT": f"/{_PIP_CERTIFICATES}"} if "PIP_CERT" in os.environ else {}
    return {name: os.environ[name] for name in names} | certificates


def _say(text: str) -> None:
    sys.stderr.write(f"--- {text}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="what", required=True)
    for name in ("build", "run"):
        command = commands.add_parser(name)
        if name == "run":
            command.add_argument("-e", "--env", action="append", default=[], metavar="NAME=VALUE")
            command.add_argument("-v", "--volume", action="append", default=[], metavar="/HOST:/FOLDER")
        command.add_argument("dockerfile", type=Path)
        command.add_argument("folder", type=Path)
        if name == "run":
            command.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    stages = dockerfile.read(given.dockerfile)
    if given.what == "build":
        build(stages, given.folder.resolve())
    else:
        run(stages[-1], given.folder.resolve(), given)


if __name__ == "__main__":
    main()
