"""Build what pyproject.toml cannot say: the helper programs, the launchers, the hot modules.

- The programs of helpers/ are compiled, static, to rootless/bin/rless-*, and the launchers rless
  and rless-oci from helpers/launcher and helpers/foreground. Without a compiler the installation
  fails (docs/decisions/0015-programs.md); helpers/build_backend.py has pip bring one.
- helpers/hot.py writes the modules that a start needs into one file, unless the install is
  editable.
- rootless/cli/manual.py writes the manual pages, for share/man/man1.
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

import setuptools

if int(setuptools.__version__.partition(".")[0]) < 77:
    sys.exit("rless: building needs setuptools 77 or later: pip install -U setuptools")

from setuptools import Command, Distribution, setup  # first: it brings distutils
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build

from distutils.command.build_scripts import build_scripts  # isort: skip
from distutils.command.install_data import install_data  # isort: skip

HERE = Path(__file__).resolve().parent
LAUNCHER = "helpers/launcher/launch.c"
COMMANDS = {"rless": "rootless.cli.main", "rless-oci": "rootless.runtime.commands.main"}
HOT = "helpers/hot.py"
MANUAL = "rootless.cli.manual"
HELPERS = {
    "rless-init": "helpers/init.c",
    "rless-listener": "helpers/listener",
    "rless-monitor": "helpers/monitor",
    "rless-networks": "helpers/networks",
    "rless-pasta": "helpers/pasta.c",
    "rless-serve": "helpers/fuse_server",
    "rless-userns-holder": "helpers/userns_holder",
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


def compiled(name: str, reason: str | None) -> None:
    """Give up if a program could not be compiled: half an installation helps nobody."""
    if reason is not None:
        sys.exit(f"rless: {name} was not built: {reason}")


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
        """Compile all of them."""
        for name, target in self._targets().items():
            compiled(name, PROGRAMS["compile_helper"](HERE / HELPERS[name], target))

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
    """Compile the launchers."""

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
            compiled(name, PROGRAMS["write_launcher"](directory / name, about))

    def get_source_files(self) -> list[str]:
        """Return what belongs into a source distribution for this step."""
        return [LAUNCHER, "helpers/foreground/foreground.c", "helpers/foreground/foreground.h"]


class InstallManual(install_data):
    """Write the manual pages, from the tables of the command line."""

    def run(self) -> None:
        """Write them where the installation, or the wheel, has its data."""
        directory = Path(self.install_dir) / "share" / "man" / "man1"
        directory.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-B", "-m", MANUAL, str(directory)], cwd=HERE, check=True)
        self.outfiles += map(str, directory.iterdir())


class Platform(Distribution):
    """Belong to one architecture, because of the programs."""

    def has_data_files(self) -> bool:
        """Say yes, because of the manual pages."""
        return True

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
    scripts=[LAUNCHER],
    data_files=[],  # `InstallManual` makes them
    options=scratch_directories(),
    cmdclass={
        "build": Build,
        "build_helpers": BuildHelpers,
        "build_hot": BuildHot,
        "install_data": InstallManual,
        "build_scripts": BuildScripts,
        "bdist_wheel": PlatformWheel,
    },
)
