"""Write docs/apptainer.md from the tables of the front: each flag, its variable, what it does."""

from __future__ import annotations

from rootless.cli import streams
from rootless.cli.fronts.apptainer import help as texts
from rootless.cli.fronts.apptainer import table
from rootless.cli.fronts.apptainer.parse import variables_of
from rootless.cli.parse import help_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rootless.cli.fronts.apptainer.table import FrontVerb
    from rootless.cli.parse import Refused, Row

_HEAD = """\
# The command apptainer

<!-- Written by `python -m rootless.cli.fronts.apptainer.reference`; a test keeps it current. -->

Under the names `apptainer` and `singularity` (`rless alias install`, [workflows.md](workflows.md))
rless has the command line of Apptainer. It makes the same containers as `rless run --hpc`
([hpc.md](hpc.md)), in the same storage. Nothing is set-uid. Snakemake, cwltool, toil, miniwdl and
spython run on it unchanged.

- **Images**: a SIF file, a squashfs image, also behind a line `#!…`, whatever its name is; a
  directory; `docker://`, `docker-archive:`, `oci:`, `oci-archive:`; a SIF file in a registry
  (`oras://`) or on a web server (`http://`, `https://`). What begins with no such scheme is a path.
  An image of a registry is run from the storage's layers; nothing is converted. A file is fetched
  once, and kept there too; `pull` asks each time whether it has changed, `exec` with
  `--disable-cache`.
- **Who and where**: you, with your groups, umask, limits and time zone, in your working directory
  if that is to be seen inside, else in your home, else in `/`. With `--contain` it is the home.
- **Files**: the root file system is read-only, and mount points are made where they are missing.
  Your home, the working directory, `/tmp` and `/var/tmp` are mounted. What you bind wins over what
  is mounted by itself, in whatever order.
- **Environment**: yours, then the image's, then `APPTAINERENV_NAME` and `SINGULARITYENV_NAME`,
  `--env-file`, `--env`. `PREPEND_PATH` and `APPEND_PATH` of these add to the image's PATH. The
  variables `APPTAINER_CONTAINER`, `_NAME`, `_COMMAND` and `_BIND` tell a program where it is.
- **Arguments** of `run` are never read by a shell again. Apptainer's own script does that with an
  image of Docker's, unless `--no-eval` is given. A runscript that the image has is its author's.
- **Exit codes**: the program's, 128 and the number of a signal, 255 for each failure of the tool, 1
  for a wrong flag.
- **Instances** are containers: `rless ps` shows them. The list is read from what lives, so a name
  is free again when its instance was killed. With an image of Docker's an instance has no start
  script, and stays.
- **Limits** that cannot be set are told in a warning, as under the name `docker`.
- **The cache** is the storage of rless. `APPTAINER_CACHEDIR` moves it, for a command, to `rless` in
  that directory; then nothing below your home grows. Many tasks of a job array may pull the same
  image at once: it is downloaded once, and those of one host wait for the first SIF file. It grows
  beside its name, and nothing is unpacked for it. A second file of the same image shares the blocks
  of the first one, or is a hard link to it, where both are on one file system. `APPTAINER_TMPDIR`
  is where `build` unpacks a `localimage` file; without it that is beside the target.
  `APPTAINER_PULLFOLDER` is where `pull` writes.
- **Passwords**: `APPTAINER_DOCKER_USERNAME` and `APPTAINER_DOCKER_PASSWORD`, or `registry login`.

## Definition files

`apptainer build x.sif x.def` is done by the builder of `rless build` ([build.md](build.md)). So a
step that was done before is taken from the cache, `%post` included, until `--disable-cache` is
given; `%post` needs no subordinate ids; and a failure shows the lines of the definition file. The
target is written once all has succeeded, `%test` included.

| | |
|---|---|
| `Bootstrap:` | `docker` with `Registry:` and `Namespace:`, `docker-archive`, `oci`, \
`oci-archive`, `localimage` (a SIF file, a squashfs image, a sandbox), `oras`, `scratch` |
| `Stage:` | names a stage; `%files from STAGE` copies from it |
| `%arguments`, `{{ NAME }}` | defaults of build arguments, for `--build-arg` and \
`--build-arg-file`. A value is put into its line and makes no section of its own |
| `%files` | as `cp -r` does, with wildcards; links in a directory stay links. A source may \
be any file of the host that you can read: read a stranger's definition before you build it. \
Variables and `~` have no value there |
| `%post [-c SHELL]` | a script of `sh -ex`, as root of the container, with the network of \
`rless build`. What it appends to the file `$APPTAINER_ENVIRONMENT` is part of the image's \
environment, and `NAME VALUE` in the file `$APPTAINER_LABELS` is a label |
| `%environment`, `%runscript`, `%startscript`, `%help`, `%labels` | of the last stage; \
what it leaves out is as in its base |
| `%test` | run at the end, without `--notest` |
| `%pre`, `%setup` | refused: they would run on the host |
| `%appinstall NAME`, `%appfiles`, `%appenv`, `%apprun`, `%appstart`, `%apptest`, \
`%applabels`, `%apphelp` | an application in `/scif/apps/NAME`, for `--app NAME`. %appinstall \
begins there, after %post, in a shell of its own; with `--section` each is done with the section \
of its kind |
| `Bootstrap: library`, `shub`, `docker-daemon`, `debootstrap`, \
`yum`, `dnf`, `zypper`, `arch`, `busybox` | refused |
"""


def document() -> str:
    """Return the page."""
    lines = [_HEAD]
    lines += ["## exec, run, shell, test, instance start, instance run", ""]
    lines += [
        "A variable begins with `APPTAINER_`, which wins, or `SINGULARITY_`. Lists are joined.",
        "",
    ]
    for title, rows in table.ACTIONS:
        lines += [
            f"### {title}",
            "",
            "| flag | variable | |",
            "|---|---|---|",
            *_flags(rows, True),
            "",
        ]
    lines += ["### Refused", "", *_refused(table.ACTION_REFUSED), ""]
    lines += ["## Before the command", "", "| flag | |", "|---|---|", *_flags(table.GLOBAL[1])]
    lines += ["", *_refused(table.GLOBAL_REFUSED), ""]
    for verb in texts.verbs():
        if verb.groups != table.ACTIONS:
            lines += _section(verb)
    lines += [
        "## Commands that are refused",
        "",
        "| command | why | in its place |",
        "|---|---|---|",
    ]
    lines += [f"| `{name}` | {why} | {use} |" for name, (why, use) in table.REFUSED_VERBS.items()]
    lines += [
        "",
        "## Schemes that are refused",
        "",
        "| scheme | why | in its place |",
        "|---|---|---|",
    ]
    lines += [
        f"| `{name}:` | {why} | {use} |" for name, (why, use) in table.REFUSED_SCHEMES.items()
    ]
    return "\n".join([*lines, ""])


def _section(verb: FrontVerb) -> Iterator[str]:
    yield from (f"## {verb.name}", "", f"`apptainer {verb.name} {verb.usage}`: {verb.about}.", "")
    for _, rows in verb.groups:
        if rows:
            yield from ("| flag | |", "|---|---|", *_flags(rows), "")
    if verb.refused:
        yield from (*_refused(verb.refused), "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _spelled(names: str, metavar: str) -> str:
    words = ", ".join(f"`{word}`" for word in sorted(names.split(), key=len))
    return _cell(f"{words[:-1]} {metavar}`" if metavar else words)


def _flags(rows: Iterable[Row], variables: bool = False) -> Iterator[str]:
    for row in rows:
        names = ", ".join(f"`{name}`" for name in variables_of(row)) if variables else ""
        cells = [_spelled(row[0], row[1]), *([names] if variables else []), _cell(help_text(row))]
        yield f"| {' | '.join(cells)} |"


def _refused(rows: Iterable[Refused]) -> Iterator[str]:
    yield from ("| refused | why | in its place |", "|---|---|---|")
    for names, metavar, why, use in rows:
        yield f"| {_spelled(names, metavar)} | {_cell(why)} | {_cell(use)} |"


if __name__ == "__main__":
    streams.write(document())
