"""Do what a Dockerfile says where there is no Docker engine, then run what the image would.

    unshare --mount --propagation private python replayed_image.py DOCKERFILE TARGET [--volume FROM:TO] -- ARGUMENTS

Each stage is an overlay over this machine's own root, which stands in for the base image, with this Python where the
base has its own. So paths are the image's, what a step forgets to copy is not there, and nothing of it stays. At last
the entrypoint runs as the image's user, on a root that is read-only but for /tmp, without capabilities. Needs root.
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from dockerfile_parse import DockerfileParser

# What hides the checkout and the home of whoever runs this: an image has neither.
HIDDEN = (Path(__file__).resolve().parents[2], Path.home())
IGNORED = {"LABEL", "EXPOSE", "HEALTHCHECK", "STOPSIGNAL", "COMMENT"}


def mount(*arguments):
    subprocess.run(["mount", *map(str, arguments)], check=True)


class Stage:
    """What a stage's steps have made so far."""

    def __init__(self, folder, base=None):
        self.root = folder / "root"
        self.layers = [folder / "layer", *(base.layers if base else [])]
        self.environment = dict(base.environment) if base else {"PATH": os.environ["PATH"]}
        self.arguments = dict(base.arguments) if base else {}
        self.shell = base.shell if base else ["/bin/sh", "-c"]
        self.directory = base.directory if base else "/"
        self.user, self.entrypoint, self.command = (base.user, base.entrypoint, base.command) if base else ("0", [], [])
        for name in ("root", "layer", "work"):
            (folder / name).mkdir(parents=True)
        lower = ":".join([*map(str, self.layers[1:]), "/"])
        options = f"lowerdir={lower},upperdir={folder}/layer,workdir={folder}/work"
        mount("-t", "overlay", "overlay", "-o", options, self.root)
        self._mount_base()

    def _mount_base(self):
        """Mount what an image has: nothing of this checkout, an empty /tmp, and a Python in /usr/local."""
        for hidden in HIDDEN:
            mount("-t", "tmpfs", "tmpfs", self.inside(hidden))
        mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", self.inside("/tmp"))
        # At its own place too, for its own library that is loaded from there.
        for place in (sys.base_prefix, "/usr/local"):
            self.inside(place).mkdir(parents=True, exist_ok=True)
            mount("--bind", "-o", "ro", sys.base_prefix, self.inside(place))
        for name in ("/proc", "/dev"):
            mount("--rbind", name, self.inside(name))

    def inside(self, path):
        return self.root / str(path).lstrip("/")

    def copy(self, words, context):
        *sources, target = words
        into = self.inside(Path(self.directory) / target)
        if len(sources) > 1 or target.endswith("/"):
            into.mkdir(parents=True, exist_ok=True)
        into.parent.mkdir(parents=True, exist_ok=True)
        for source in sources:
            # The folder's content, as Docker has it.
            one = context / source
            subprocess.run(["cp", "-r", f"{one}/." if one.is_dir() else one, into], check=True)

    def run(self, text, stages, context):
        options, command = [], text
        while found := re.match(r"--mount=(\S+)\s+", command):
            options.append(dict(part.partition("=")[::2] for part in found[1].split(",")))
            command = command[found.end() :]
        with self._mounted(options, stages, context):
            subprocess.run(
                ["chroot", self.root, "env", f"--chdir={self.directory}", *self.shell, command],
                env={**os.environ, "TMPDIR": "/tmp", **self.arguments, **self.environment}, check=True,
            )  # fmt: skip

    @contextmanager
    def _mounted(self, options, stages, context):
        mounted = []
        for option in options:
            at = self.inside(option["target"])
            if option.get("type") == "cache":
                source = Path.home() / ".cache" / at.name
                source.mkdir(parents=True, exist_ok=True)
            else:
                source = (stages[option["from"]].root if "from" in option else context) / option["source"].lstrip("/")
            at.parent.mkdir(parents=True, exist_ok=True)
            at.mkdir(exist_ok=True) if source.is_dir() else at.touch()
            mount("--bind", source, at)
            mounted.append(at)
        yield
        for at in reversed(mounted):
            subprocess.run(["umount", at], check=True)

    def start(self, arguments, volumes):
        """Become the image's process."""
        for target in (volume.partition(":")[2] for volume in volumes):
            self.inside(target).mkdir(parents=True, exist_ok=True)
        mount("--bind", self.root, self.root)
        mount("-o", "remount,ro,bind", self.root)
        self._mount_base()
        for volume in volumes:
            source, _, target = volume.partition(":")
            mount("--bind", "-o", "ro", source, self.inside(target))
        user, _, group = self.user.partition(":")
        drops = ["--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]
        os.execvpe(
            "chroot",
            ["chroot", str(self.root), "setpriv", f"--reuid={user}", f"--regid={group or user}", *drops, "env",
             f"--chdir={self.directory}", *self.entrypoint, *(arguments or self.command)],
            self.environment,
        )  # fmt: skip


def expanded(text, stage):
    known = {**stage.arguments, **stage.environment} if stage else {}
    return re.sub(r"\$\{?(\w+)\}?", lambda found: known.get(found[1], found[0]), text)


def build(dockerfile, target, folder):
    """Do the steps of a target and of all stages that it is made of; gives the target's stage."""
    context = Path(dockerfile).resolve().parents[2]
    with Path(dockerfile).open("rb") as file:
        structure = DockerfileParser(fileobj=file).structure
    wanted = _needed(structure, target)
    stages, stage = {}, None
    for step in structure:
        name, value = step["instruction"], step["value"]
        if name == "FROM":
            base, _, called = value.split()
            stage = Stage(folder / called, stages.get(base)) if called in wanted else None
            stages[called] = stage
            skipped = stage is None
        elif name in IGNORED or (stage is None and (name == "ARG" or skipped)):
            continue
        else:
            _do(stage, name, value, stages, context)
    return stages[target]


def _needed(structure, target):
    """Stages that a target is made of, itself among them."""
    uses, called = {}, None
    for step in structure:
        if step["instruction"] == "FROM":
            base, _, called = step["value"].split()
            uses[called] = {base}
        elif called is not None:
            uses[called] |= set(re.findall(r"from=(\w[\w-]*)", step["value"]))
    needed, waiting = set(), [target]
    while waiting:
        one = waiting.pop()
        if one in uses and one not in needed:
            needed.add(one)
            waiting += uses[one]
    return needed


def _do(stage, name, value, stages, context):
    sys.stderr.write(f"{name} {value[:150]}\n")
    if name == "RUN":
        stage.run(value, stages, context)
    elif name == "COPY":
        stage.copy(value.split(), context)
    elif name == "ENV":
        for word in shlex.split(value):
            key, _, said = word.partition("=")
            stage.environment[key] = expanded(said, stage)
    elif name == "ARG":
        key, _, said = value.partition("=")
        stage.arguments[key] = said
    elif name == "WORKDIR":
        stage.directory = value
        stage.inside(value).mkdir(parents=True, exist_ok=True)
    elif name == "USER":
        stage.user = value
    elif name in {"SHELL", "ENTRYPOINT", "CMD"}:
        words = [word.strip('"') for word in re.findall(r'"[^"]*"', value)]
        setattr(stage, {"SHELL": "shell", "ENTRYPOINT": "entrypoint", "CMD": "command"}[name], words)
    else:
        raise SystemExit(f"{name} is not known here")


def main():
    own, _, arguments = (list(part) for part in _split(sys.argv[1:]))
    dockerfile, target, *options = own
    volumes = [option for option in options if option != "--volume"]
    folder = Path(tempfile.mkdtemp(prefix="framewatch-image-"))
    # Not on the disk: a layer must not lie within what it lies over.
    mount("-t", "tmpfs", "-o", "size=16g", "tmpfs", folder)
    stage = build(dockerfile, target, folder)
    stage.start(arguments, volumes)


def _split(words):
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at : at + 1], words[at + 1 :]


if __name__ == "__main__":
    main()
