"""Build what pyproject.toml cannot say: the helper programs and the launchers.

- helpers/hasten.c, helpers/init.c and the files of helpers/monitor, helpers/networks,
  helpers/serve and helpers/unshare are compiled, static, to rootless/bin/rless-hasten,
  rless-init, rless-monitor, rless-networks, rless-serve and rless-unshare.
  No compiler, or no static libc: the installation goes on without them, one line says so,
  `rless run --init` is refused with the reason, and the monitor is a Python process.
- rless and rless-oci are made from helpers/launcher and foreground, or without a compiler from
  launch.sh.
- helpers/hot.py writes the modules that a start needs into one file, unless the install is
  editable.
"""

from __future__ import annotations

import atexit
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import Command, Distribution, setup  # first: it brings distutils
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build

from distutils.command.build_scripts import build_scripts  # isort: skip

HERE = Path(__file__).resolve().parent
LAUNCHERS = ["helpers/launcher/launch.c", "helpers/launcher/launch.sh"]
COMMANDS = {"rless": "rootless.cli.main", "rless-oci": "rootless.runtime.commands.main"}
HOT = "helpers/hot.py"
HELPERS = {
    "rless-hasten": "helpers/hasten.c",
    "rless-init": "helpers/init.c",
    "rless-monitor": "helpers/monitor",
    "rless-networks": "helpers/networks",
    "rless-serve": "helpers/fuse_server",
    "rless-unshare": "helpers/userns_holder",
}
LOST = {
    "rless-hasten": "a start below systemd will take some milliseconds more",
    "rless-init": "`rless run --init` will be refused",
    "rless-monitor": "each container will take 10 MB more of memory while it runs",
    "rless-networks": "networks of several containers will be refused",
    "rless-serve": "a start from an image file will take some milliseconds more",
    "rless-unshare": "a start will take 2 milliseconds more",
}
PROGRAMS = runpy.run_path(str(HERE / "helpers/programs.py"))


def scratch_directories() -> dict[str, dict[str, str]]:
    """Build outside of the source tree, which then stays as it is.

    A build/ left there would put modules that are gone since into the next wheel, and, made by
    root, would stop the next user.
    """
    if "sdist" in sys.argv:
        return {}  # it takes the metadata from the source tree
    scratch = tempfile.mkdtemp(prefix="rless-build-")
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    return {"build": {"build_base": scratch}, "egg_info": {"egg_base": scratch}}


def say(line: str) -> None:
    """Tell the person who installs; pip shows it with -v only, scripts/quickstart always."""
    print(f"rless: {line}", file=sys.stderr)


class BuildStep(Command):
    """A step of `build` that makes files of its own in the package."""

    user_options: list[tuple[str, str, str]] = []
    editable_mode = False

    def initialize_options(self) -> None:
        """Set the options that setuptools knows of this step."""
        self.build_lib = None

    def finalize_options(self) -> None:
        """Take the build directory from `build`."""
        self.set_undefined_options("build", ("build_lib", "build_lib"))

    def get_output_mapping(self) -> dict[str, str]:
        """Return which outputs are copies of a source: none."""
        return {}


class BuildHelpers(BuildStep):
    """Compile the helper programs into the package (a step of `build`)."""

    description = "compile the helper programs"

    def run(self) -> None:
        """Compile, or say what is missing and go on."""
        for name, target in self._targets().items():
            reason = PROGRAMS["compile_helper"](HERE / HELPERS[name], target)
            if reason is None:
                continue
            target.unlink(missing_ok=True)  # never an old program beside new code
            say(
                f"{name} was not built: {reason}. {LOST[name]}; "
                "install gcc and libc6-dev (or gcc and glibc-static) and install rless again"
            )

    def _targets(self) -> dict[str, Path]:
        root = HERE if self.editable_mode else Path(self.build_lib or "")
        return {name: root / "rootless" / "bin" / name for name in HELPERS}

    def get_source_files(self) -> list[str]:
        """Return what belongs into a source distribution for this step."""
        files = [file for path in HELPERS.values() for file in PROGRAMS["sources"](HERE / path)]
        files += (HERE / "helpers").glob("*/*.h")
        return [str(file.relative_to(HERE)) for file in files if file.exists()]

    def get_outputs(self) -> list[str]:
        """Return the files that this step has made."""
        return [str(path) for path in self._targets().values() if path.exists()]


class BuildHot(BuildStep):
    """Write the modules that a start needs into one file (a step of `build`)."""

    description = "compile the modules that a start needs into one file"

    def run(self) -> None:
        """Write the file; an editable install has none, its sources are meant to change."""
        if not self.editable_mode:
            lean = [sys.executable, "-X", "no_debug_ranges", str(HERE / HOT)]
            subprocess.run([*lean, self.build_lib or "."], check=True, stdout=subprocess.DEVNULL)

    def get_source_files(self) -> list[str]:
        """Return what belongs into a source distribution for this step."""
        return [HOT]

    def get_outputs(self) -> list[str]:
        """Return the files that this step has made."""
        path = Path(self.build_lib or "") / "rootless" / "hot.bin"
        return [] if self.editable_mode else [str(path)]


class Build(build):
    """Build the package, the helper programs, the file of hot modules and the launchers."""

    # In the order that they are run in: build_hot reads what build_py has copied.
    sub_commands = [*build.sub_commands, ("build_helpers", None), ("build_hot", None)]


class BuildScripts(build_scripts):
    """Make the launchers: programs, or where there is no compiler scripts."""

    editable_mode = False

    def run(self) -> None:
        """Write each launcher, with the Python that installs it."""
        directory = Path(self.build_dir)
        directory.mkdir(parents=True, exist_ok=True)
        values = {
            "SOURCE": str(HERE) if self.editable_mode else "",
            # Not the link in the environment that pip and others make for the time of a build.
            "PYTHON": os.path.realpath(sys.executable),
            "VERSION": "{}.{}".format(*sys.version_info),
        }
        for name, module in COMMANDS.items():
            about = {"NAME": name, "MODULE": module, **values}
            PROGRAMS["write_launcher"](directory / name, about)

    def get_source_files(self) -> list[str]:
        """Return what belongs into a source distribution for this step."""
        return [*LAUNCHERS, "helpers/foreground/foreground.c", "helpers/foreground/foreground.h"]


class Platform(Distribution):
    """Belong to one architecture, because of rless-init."""

    def has_ext_modules(self) -> bool:
        """Say yes, so that the files go to the platform's directory."""
        return True


class PlatformWheel(bdist_wheel):
    """Name the wheel for any Python 3 on this machine's architecture."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return the tag: no Python ABI, this platform."""
        return ("py3", "none", super().get_tag()[2])


setup(
    distclass=Platform,
    scripts=LAUNCHERS,
    options=scratch_directories(),
    cmdclass={
        "build": Build,
        "build_helpers": BuildHelpers,
        "build_hot": BuildHot,
        "build_scripts": BuildScripts,
        "bdist_wheel": PlatformWheel,
    },
)
