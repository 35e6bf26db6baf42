"""The front apptainer without a container: its tables, its variables, its mounts."""

from __future__ import annotations

from pathlib import Path

import pytest

from rootless.cli.fronts.apptainer import help as texts
from rootless.cli.fronts.apptainer import main as front
from rootless.cli.fronts.apptainer import mounts, pull, reference, table
from rootless.cli.fronts.apptainer.environment import Environment, of_host
from rootless.cli.fronts.apptainer.parse import UsageError, parse
from rootless.cli.parse import convert
from rootless.errors import RlessError
from rootless.image.registry import auth
from rootless.linux import process


@pytest.fixture(autouse=True)
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be in a directory below a home that is there."""
    for name in ("APPTAINER_BIND", "SINGULARITY_BIND", "APPTAINER_CACHEDIR"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    (home / "work").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home / "work")
    return home


def test_rows_are_sound() -> None:
    """Each name is there once, and each converter can be found."""
    for verb in texts.verbs():
        names = [
            name
            for rows in (*(rows for _, rows in verb.groups), verb.refused)
            for row in rows
            for name in row[0].split()
        ]
        assert len(names) == len(set(names)), verb.name
        for _, rows in verb.groups:
            for row in rows:
                try:
                    convert(row, row[0], "true" if row[2] == "flag" else "1")
                except RlessError:
                    pass  # it was found, and has refused a value


def test_help_has_every_flag(capfd: pytest.CaptureFixture[str]) -> None:
    assert front.main(["exec", "--help"], "apptainer") == 0
    out = capfd.readouterr()[0]
    assert all(row[0].split()[0] in out for _, rows in table.ACTIONS for row in rows)
    assert front.main(["help"], "apptainer") == 0
    assert front.main([], "singularity") == 0
    assert "Usage: singularity [GLOBAL OPTIONS]" in capfd.readouterr()[0]


def test_reference_is_current() -> None:
    page = Path(__file__).resolve().parents[4] / "docs" / "apptainer.md"
    module = "rootless.cli.fronts.apptainer.reference"
    assert page.read_text() == reference.document(), f"run: python -m {module} > docs/apptainer.md"


def test_password_is_taken_from_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "_given", {})
    monkeypatch.setenv("SINGULARITY_DOCKER_USERNAME", "me")
    monkeypatch.setenv("DOCKER_PASSWORD", "secret")
    assert pull.engine_name("docker://example.org/x:1") == "example.org/x:1"
    found = auth.find("example.org", "x")
    assert found is not None and (found.username, found.password) == ("me", "secret")


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("docker://example.org:5000/lab/tool:1.2", "tool_1.2.sif"),
        ("docker://tool", "tool_latest.sif"),
        ("docker://tool@sha256:00", "tool_latest.sif"),
        ("docker-archive:/a/b.tar", "b_latest.sif"),
    ],
)
def test_default_names_of_files(uri: str, name: str) -> None:
    assert pull.default_name(uri) == name


def test_values_are_hidden_from_ps(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(process, "show_as", shown.append)
    front.main(["exec", "--env", "A=secret", "/nosuch", "true"], "apptainer")
    assert shown == ["apptainer\0exec\0--env\0A=\0/nosuch\0true"]


@pytest.mark.parametrize("verb", table.REFUSED_VERBS)
def test_verbs_are_refused_by_name(verb: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert front.main([verb, "x"], "apptainer") == 255
    assert capfd.readouterr()[1].startswith(f"FATAL:   apptainer {verb} is not supported")


@pytest.fixture(autouse=True)
def voice(monkeypatch: pytest.MonkeyPatch) -> None:
    from rootless.errors import voice as words

    monkeypatch.setitem(words, "error", "FATAL:   ")
    monkeypatch.setitem(words, "warning", "WARNING: ")


def values_of(*words: str) -> dict[str, object]:
    return parse(table.ACTION_VERBS["run"], [*words, "image"])[0]


def test_variables_of_both_names(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SINGULARITY_BINDPATH", "/a")
    monkeypatch.setenv("APPTAINER_CONTAIN", "yes")
    monkeypatch.setenv("SINGULARITY_HOME", "/one")
    monkeypatch.setenv("APPTAINER_HOME", "/two")
    values = values_of("-B", "/b")
    assert (values["bind"], values["contain"], values["home"]) == (["/a", "/b"], True, "/two")
    assert "APPTAINER_HOME and SINGULARITY_HOME differ" in capfd.readouterr()[1]
    assert values_of("--home", "/three", "--contain=false")["home"] == "/three"
    monkeypatch.setenv("APPTAINER_CONTAIN", "perhaps")
    with pytest.raises(UsageError, match=r"\$APPTAINER_CONTAIN"):
        values_of()


def places(*words: str) -> mounts.Places:
    return mounts.Places(values_of(*words))


def test_home_and_working_directory(outside: Path) -> None:
    found = places("--no-mount", "tmp")
    assert found.mounts[str(outside)].source == str(outside)
    assert str(outside / "work") not in found.mounts  # it is seen in the home
    assert found.workdirs == (str(outside / "work"), str(outside), "/")
    snakemake = places("--home", str(outside / "work"))
    assert [target for target in snakemake.mounts if target.startswith(str(outside))] == [
        str(outside / "work")
    ]
    other = places("--no-mount", "tmp", "--home", f"{outside}:/abc")
    assert other.home == "/abc"
    assert str(outside / "work") in other.mounts  # under its own name
    assert str(outside) not in places("--no-home").mounts
    with pytest.raises(RlessError, match=r"--home: .*there is no such file"):
        places("--home", str(outside / "nothere"))
    contained = places("--contain")
    assert contained.mounts[str(outside)].type == "tmpfs"
    assert contained.workdirs == (str(outside), "/")
    assert places("--pwd", "/w").workdirs == ("/w",)


def test_what_is_given_wins(outside: Path) -> None:
    found = places("--contain", "-B", f"{outside}:/tmp", "--workdir", str(outside / "d"))
    assert found.mounts["/tmp"].source == str(outside)
    assert found.mounts["/var/tmp"].source == str(outside / "d" / "var_tmp")
    assert found.mounts[str(outside)].source == str(outside / "d" / "home")
    assert "/tmp" not in places("--no-mount", "tmp").mounts
    assert not places("--no-mount", "bind-paths").has("/of/the/site")
    assert places("--no-mount", "/other").has("/of/the/site")
    with pytest.raises(RlessError, match="cannot be without proc"):
        places("--no-mount", "proc")


def test_forms_of_binds(outside: Path) -> None:
    (outside / "a:b").touch()
    found = places("-B", r"../a\:b:/x/y:ro", "-B", "/etc,/usr:/u:rw")
    assert found.mounts["/x/y"].read_only
    assert found.mounts["/etc"].source == "/etc"
    assert not found.mounts["/u"].read_only
    assert found.binds == f"{outside}/a:b:/x/y:ro,/etc:/etc,/usr:/u"
    for text, why in (("/etc:x", "not an absolute"), ("/etc:/", "root"), ("/etc:/x:zz", "unknown")):
        with pytest.raises(RlessError, match=why):
            places("-B", text)
    for text, why in (("type=tmpfs", "type=bind"), ("type=bind,src=/etc", "no source or no")):
        with pytest.raises(RlessError, match=why):
            places("--mount", text)


def test_clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    monkeypatch.setenv("OTHER", "x")
    passed = of_host(values_of("-e"))
    assert "HTTPS_PROXY=http://proxy" in passed and "LANG=C" in passed
    assert not any(entry.startswith("OTHER=") for entry in passed)
    found = Environment(values_of("-e", "--env", "A=1,2,B=3"), {"NAME": "n"}, "/h")
    assert found.over["A"] == "1,2" and found.over["B"] == "3"
    assert "export A='1,2'" in found.for_shell()
    assert "OTHER=x" not in of_host(values_of("--no-env", "OTHER"))
