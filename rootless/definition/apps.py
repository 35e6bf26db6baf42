"""Applications of a definition file (SCIF): what each has in the image, as Apptainer writes it.

An application lies in /scif/apps/NAME, its data in /scif/data/NAME, and what is said of it in
/scif/apps/NAME/scif. One is chosen by $APPTAINER_APPNAME, before the image's scripts are read.

Source: sci-f.github.io/specification; apptainer internal/pkg/build/apps.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from rootless.definition import scripts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rootless.definition.parse import App, Script

TOP = "/scif/apps"
_DATA = "/scif/data"
# Section of an application -> the section that does the same for the image.
KINDS = {
    "appinstall": "post",
    "appfiles": "files",
    "appenv": "environment",
    "apprun": "runscript",
    "appstart": "startscript",
    "apptest": "test",
    "applabels": "labels",
    "apphelp": "help",
}
_EXECUTED = ("apprun", "appstart", "apptest")
_CHOOSE = """\
if [ -n "${APPTAINER_APPNAME:-}" ]; then
    SCIF_APPS=/scif/apps SCIF_APPROOT="/scif/apps/$APPTAINER_APPNAME"
    if [ ! -d "$SCIF_APPROOT" ]; then
        echo "%(says)sthe image has no application $APPTAINER_APPNAME" >&2; exit %(code)d
    fi
    PATH="$SCIF_APPROOT/bin:$SCIF_APPROOT${PATH:+:$PATH}"
    LD_LIBRARY_PATH="$SCIF_APPROOT/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    export APPTAINER_APPNAME SCIF_APPS SCIF_APPROOT PATH LD_LIBRARY_PATH
    for f in "$SCIF_APPROOT"/scif/env/*.sh; do [ ! -f "$f" ] || . "$f"; done; unset f
fi
"""


def root(name: str) -> str:
    """Return the directory of an application."""
    return f"{TOP}/{name}"


def choose(says: str = "", code: int = 1) -> str:
    """Return commands of a shell that enter the application that $APPTAINER_APPNAME names.

    Args:
        says, code: how the message begins that there is none, and the exit code then.
    """
    return _CHOOSE % {"says": says, "code": code}


def directories(name: str) -> Iterator[str]:
    """Yield the directories that each application has."""
    yield from (f"{root(name)}/{one}" for one in ("bin", "lib"))
    yield from (f"{_DATA}/{name}/{one}" for one in ("input", "output"))


def files(
    name: str, app: App, does: Callable[[str], bool]
) -> Iterator[tuple[str, dict[str, str], bool]]:
    """Yield what is said of an application: a directory, texts by their names, if they are run.

    Args:
        does: tells whether a section is to be done, by the image's name for it.
    """
    about = f"{root(name)}/scif"

    def script(section: str) -> Script | None:
        found = app.scripts.get(section)
        return found if found is not None and does(KINDS[section]) else None

    environment = {"01-base.sh": _base(name)}
    if own := script("appenv"):
        environment["90-environment.sh"] = own.text
    yield f"{about}/env/", environment, True
    found = {KINDS[one]: scripts.shebang(own) for one in _EXECUTED if (own := script(one))}
    if found:
        yield f"{about}/", found, True
    labels = {"SCIF_APP_NAME": name, **(app.labels if does("labels") else {})}
    texts = {"labels.json": json.dumps(labels, ensure_ascii=False, indent="\t") + "\n"}
    if own := script("apphelp"):
        texts["runscript.help"] = own.text
    yield f"{about}/", texts, False


def install(name: str, script: Script) -> str:
    """Return %appinstall as a script: it begins in the directory of its application."""
    return f". {root(name)}/scif/env/01-base.sh\ncd {root(name)}\n{script.text}"


def exports(name: str, app: App) -> str:
    """Return what all programs of the image are told of an application."""
    word, place = re.sub(r"\W", "_", name, flags=re.ASCII), root(name)
    found = {
        "DATA": f"{_DATA}/{name}",
        "META": f"{place}/scif",
        "ROOT": place,
        "BIN": f"{place}/bin",
        "LIB": f"{place}/lib",
        "LABELS": f"{place}/scif/labels.json",
    }
    if "appenv" in app.scripts:
        found["ENV"] = f"{place}/scif/env/90-environment.sh"
    if "apprun" in app.scripts:
        found["RUN"] = f"{place}/scif/runscript"
    return "".join(f'export SCIF_APP{key}_{word}="{value}"\n' for key, value in found.items())


def _base(name: str) -> str:
    place, data = root(name), f"{_DATA}/{name}"
    pairs = {
        "SCIF_APPNAME": name,
        "SCIF_APPROOT": place,
        "SCIF_APPMETA": f"{place}/scif",
        "SCIF_DATA": _DATA,
        "SCIF_APPDATA": data,
        "SCIF_APPINPUT": f"{data}/input",
        "SCIF_APPOUTPUT": f"{data}/output",
    }
    return "#!/bin/sh\n" + "".join(f'export {key}="{value}"\n' for key, value in pairs.items())
