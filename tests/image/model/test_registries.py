"""The configuration file: where it is found, its keys, and their effect."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rootless import config, paths
from rootless.errors import RlessError
from rootless.image.model import limits
from tests.lib import images
from tests.lib.product import Product, own_rless, shared_product
from tests.lib.registry_servers import Fault, FaultyProxy

__all__ = ["own_rless", "shared_product"]

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have a home without a configuration, and none of the system."""
    for name in ("RLESS_CONFIG", "XDG_CONFIG_HOME", "RLESS_STORAGE", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("RLESS_ADDITIONAL_STORES", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("RLESS_")]:
        monkeypatch.delenv(name)
    files = (str(tmp_path / "etc" / "rless.toml"), str(tmp_path / "etc" / "config.toml"))
    monkeypatch.setattr(config, "SYSTEM_FILES", files)
    monkeypatch.setattr(config, "_loaded", {})
    monkeypatch.setattr(paths, "_storage", {})
    monkeypatch.setattr(paths, "_additional", {})
    return tmp_path


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def refuse(text: str) -> RlessError:
    with pytest.raises(RlessError) as caught:
        config.parse(text.encode(), "/c.toml")
    assert "\n" not in str(caught.value)
    assert "/c.toml" in caught.value.message
    return caught.value


def test_missing_file_changes_nothing(home: Path) -> None:
    assert config.sections() == {}
    assert config.get("storage", "root") is None
    assert paths.storage_root() == f"{home}/.local/share/rless"


def test_user_file_overrides_system_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = put(home / "etc/config.toml", "[storage]\nroot = '/a'\ndriver = 'copy'\n")
    assert config.get("storage", "root") == "/a"
    mine = put(home / ".config/rless/config.toml", "[storage]\nroot = '/b'\n")
    config._loaded.clear()
    assert config.get("storage", "root") == "/b"
    assert config.get("storage", "driver") == "copy"
    assert config.origin("storage", "root") == str(mine)
    assert config.origin("storage", "driver") == str(system)
    put(home / "etc/rless.toml", "[storage]\ndriver = 'overlay'\n")  # in place of the other
    config._loaded.clear()
    assert config.get("storage", "driver") == "overlay"
    put(home / "xdg/rless/config.toml", "[storage]\nroot = '/c'\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "xdg"))
    assert config.get("storage", "root") == "/c"
    monkeypatch.setenv("RLESS_CONFIG", str(put(home / "named.toml", "[storage]\nroot = '/d'\n")))
    assert config.get("storage", "root") == "/d"
    assert config.get("storage", "driver") is None  # that file counts alone


def test_each_key_has_an_environment_variable(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(home / "etc/rless.toml", "[containers]\nnetwork = 'none'\n")
    for name, value in (
        ("RLESS_CONTAINERS_NETWORK", "host"),
        ("RLESS_STORAGE_IMAGE_PATH", "/a:/b"),
        ("RLESS_IMAGES_LIMITS_LAYERS", "7"),
        ("RLESS_IMAGES_LIMITS_IDLE_SECONDS", "2"),
        ("RLESS_HPC_DEFAULT", "true"),
        ("RLESS_HPC_MODULES", "mpich,gpu"),
    ):
        monkeypatch.setenv(name, value)
    assert config.get("containers", "network") == "host"
    assert config.origin("containers", "network") == "$RLESS_CONTAINERS_NETWORK"
    assert config.get("storage", "image-path") == ["/a", "/b"]
    assert config.get("images.limits", "layers") == 7
    assert config.get("images.limits", "idle-seconds") == 2.0
    assert config.get("hpc", "default") is True
    assert config.get("hpc", "modules") == ["mpich", "gpu"]
    monkeypatch.setenv("RLESS_HPC_DEFAULT", "perhaps")
    with pytest.raises(RlessError, match=r"\$RLESS_HPC_DEFAULT is neither true nor false"):
        config.get("hpc", "default")


def test_templates_come_from_the_user(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    monkeypatch.setenv("JOB", "7")
    text = """
    [storage]
    root = "/local/{user}/{env:JOB}/{env:NONE:-none}"
    image-path = ["{home}/{uid}/{gid}"]
    [modules.x]
    mounts = ["/scratch/{user}:/scratch"]
    """
    found = config.parse(text.encode(), "c")
    user = pwd.getpwuid(os.getuid()).pw_name
    assert found["storage"]["root"] == f"/local/{user}/7/none"
    assert found["storage"]["image-path"] == [f"{home}/{os.getuid()}/{os.getgid()}"]
    assert found["modules.x"] == {"mounts": [f"/scratch/{user}:/scratch"]}


def test_modules_of_both_files_are_merged(home: Path) -> None:
    put(home / "etc/rless.toml", "[modules.a]\nenv = ['A=1']\n[modules.b]\nenv = ['B=1']\n")
    put(home / ".config/rless/config.toml", "[modules.b]\ndevices = ['/dev/zero']\n")
    assert config.modules() == {"a": {"env": ["A=1"]}, "b": {"devices": ["/dev/zero"]}}


def test_missing_named_file_is_an_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLESS_CONFIG", str(home / "none.toml"))
    with pytest.raises(RlessError, match=r"none.toml: No such file or directory"):
        config.sections()


@pytest.mark.needs("ordinary user")
def test_home_of_another_user_is_ignored(home: Path) -> None:
    (home / ".config").mkdir(0o000)
    put(home / "etc/config.toml", "[storage]\nroot = '/a'\n")
    assert config.get("storage", "root") == "/a"
    (home / ".config").chmod(0o700)


def test_unreadable_system_file_is_reported(home: Path) -> None:
    system = put(home / "etc/rless.toml", "[storage]\nroot = '/a'\n")
    system.chmod(0)
    with pytest.raises(RlessError, match=r"rless.toml: Permission denied$"):
        config.sections()


def test_world_writable_file_is_not_trusted(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("etc/rless.toml", ".config/rless/config.toml"):
        file = put(home / path, "[storage]\nroot = '/a'\n")
        file.chmod(0o666)
        with pytest.raises(RlessError, match="can be written by everybody"):
            config.sections()
        file.chmod(0o644)
        assert config.get("storage", "root") == "/a"
        config._loaded.clear()
    monkeypatch.setenv("RLESS_CONFIG", "/dev/null")
    assert config.sections() == {}


def test_environment_overrides_files(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(home / ".config/rless/config.toml", f"[storage]\nroot = '{home}/file'\n")
    assert paths.storage_root() == f"{home}/file"
    monkeypatch.setenv("RLESS_STORAGE", f"{home}/environment")
    assert paths.storage_root() == f"{home}/environment"


def test_values_have_units(home: Path) -> None:
    text = """
    [storage]
    root = "~/store"
    additional-stores = ["/share/$USER", "/local/$UID/images/"]
    [images]
    max-concurrent-downloads = 6
    [images.limits]
    layer-bytes = "2 GiB"
    blob-bytes = "20MB"
    json-bytes = 1000
    layers = 100
    idle-seconds = 5
    [containers]
    log-driver = "json-file"
    log-max-size = "10m"
    stop-timeout = -1
    """
    found = config.parse(text.encode(), "c")
    import pwd

    user = pwd.getpwuid(os.getuid()).pw_name
    assert found["storage"]["root"] == f"{home}/store"
    assert found["storage"]["additional-stores"] == [
        f"/share/{user}", f"/local/{os.getuid()}/images"
    ]  # fmt: skip
    assert found["images"] == {"max-concurrent-downloads": 6}
    assert found["images.limits"] == {
        "layer-bytes": 2 << 30, "blob-bytes": 20 << 20, "json-bytes": 1000, "layers": 100,
        "idle-seconds": 5.0,
    }  # fmt: skip
    assert found["containers"]["log-max-size"] == 10 << 20
    assert found["containers"]["stop-timeout"] == -1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[storag]", r"unknown: \[storag\]; did you mean \[storage\]\?"),
        ("[storage]\nrot = '/x'", r"unknown: rot in \[storage\]; did you mean root\?"),
        ("[images.limits]\nlayer-byte = 1", "did you mean layer-bytes"),
        ("[containers]\nzzz = 1", "known are log-driver, "),
        ("storage = 1", "storage is not a section"),
        ("[storage", "is not valid TOML"),
        ("[storage]\nroot = 'x'", "'x' is not an absolute path"),
        ("[storage]\nroot = 5", "is not a path in quotes"),
        ("[storage]\nroot = '/$SHELL'", r"\$SHELL is not known"),
        ("[storage]\ndriver = 'btrfs'", "'btrfs' is not overlay or fuse-overlayfs or copy"),
        ("[storage]\nadditional-stores = '/x'", "is not a list of directories"),
        ("[images]\nmax-concurrent-downloads = 0", "is not a whole number from 1 on"),
        ("[images]\nmax-concurrent-downloads = true", "is not a whole number"),
        ("[images.limits]\nlayer-bytes = '5 parsec'", "is not a size"),
        ("[images.limits]\nlayer-bytes = -5", "is not a size"),
        ("[images.limits]\nlayer-bytes = true", "is not a size"),
        ("[images.limits]\nlayer-bytes = 1979-05-27", "is not a size"),
        ("[images.limits]\nidle-seconds = 'x'", "is not a number of seconds"),
        ("[images.limits]\nidle-seconds = nan", "is not a number of seconds"),
        ("[containers]\nnetwork = ''", "is not a word in quotes"),
        ('[containers]\nnetwork = "a\\nb"', "is not a word in quotes"),
        ("images.limits = 3", "is not a section"),
        ("modules = 3", "modules is not a section"),
        ("[modules.x]\nmount = []", "did you mean mounts"),
        ("[modules.x]\nmounts = '/a:/b'", "is not a list of words in quotes"),
        ("[hpc]\nhome = 'yes'", "is neither true nor false"),
        ("[storage]\nroot = '/{env:NONE_SUCH}'", "NONE_SUCH is not set"),
        ("[storage]\nroot = '/{uid'", "a brace is not closed"),
        ("[storage]\nroot = '/{job}'", "is not known"),
        ("a = " + "[" * 5000, "is not valid TOML"),
        ("\xff\x00", "is not valid TOML"),
    ],
)
def test_mistakes_are_reported_in_one_line(text: str, message: str) -> None:
    assert re.search(message, str(refuse(text)))


def test_file_outside_utf8_is_refused() -> None:
    with pytest.raises(RlessError, match="is not valid TOML"):
        config.parse(b"\xff\xfe", "c")


def test_limits_and_keys_match() -> None:
    names = {
        name.lower().replace("_", "-")
        for name, value in vars(limits).items()
        if name.isupper() and isinstance(value, int | float)
    }
    names -= {"kib", "mib", "gib", "tib", "concurrent-downloads", "concurrent-uploads"}
    assert set(config.KEYS["images.limits"]) == names


def test_limits_are_configured(tmp_path: Path) -> None:
    text = "[images]\nmax-concurrent-uploads = 9\n[images.limits]\nlayers = 7\nidle-seconds = 2\n"
    code = (
        "from rootless.image.model import limits as l\n"
        "print(l.LAYERS, l.IDLE_SECONDS, l.CONCURRENT_UPLOADS)"
    )
    env = {"RLESS_CONFIG": str(put(tmp_path / "c.toml", text)), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout == "7 2.0 9\n", done.stderr


# -- the product ---------------------------------------------------------------------------------


@pytest.mark.needs("user namespaces", "subordinate ids")
def test_run_follows_the_configuration(own_rless: Product, tmp_path: Path) -> None:
    rless = own_rless
    file = put(
        rless.home / ".config/rless/config.toml",
        f"""
        [storage]
        root = "{tmp_path}/moved"
        driver = "copy"
        [containers]
        stop-timeout = 3
        userns = "single"
        network = "none"
        """,
    )
    no_storage = {"RLESS_STORAGE": None}
    words = ("run", "--rm", "-q", "--explain=json", rless.image, "true")
    told = rless(*words, env=no_storage).expect().err
    assert '"driver": "copy"' in told or '"driver":"copy"' in told
    assert (tmp_path / "moved" / "layers" / "single").is_dir()
    # A flag wins over the file, and so does the environment.
    told = rless("run", "--rm", "-q", "--explain=json", "--storage-driver", "overlay", "--userns",
                 "auto", rless.image, "true", env=no_storage).expect().err  # fmt: skip
    assert '"driver": "overlay"' in told or '"driver":"overlay"' in told
    assert len(os.listdir(tmp_path / "moved" / "layers")) == 2
    rless("unshare", "rm", "-rf", f"{tmp_path}/moved")
    file.write_text("[containers]\nuserns = 'nonsense'\n")
    error = rless(*words).expect(125).one_line_error()
    assert "userns in [containers]" in error and str(file) in error
    file.write_text("[storage]\nrot = '/x'\n")
    assert "did you mean root?" in rless(*words).expect(125).one_line_error()
    file.unlink()
    rless(*words).expect()


@pytest.mark.needs("user namespaces", "subordinate ids")
def test_log_driver_is_configured(own_rless: Product) -> None:
    rless = own_rless
    file = put(
        rless.home / ".config/rless/config.toml",
        """
        [containers]
        log-driver = "json-file"
        log-max-size = "1MiB"
        log-max-file = 2
        """,
    )

    def log(verb: str, *flags: str) -> object:
        words = ("--name", "logged", "--network=none", *flags, rless.image, "echo", "x")
        rless(verb, *words).expect()
        found = json.loads(rless("inspect", "logged").expect().out)[0]["HostConfig"]["LogConfig"]
        path = next((rless.storage / "containers").iterdir())
        facts = json.loads((path / "container.json").read_text())["log"]
        assert found["Type"] == facts["driver"]
        if verb == "run" and facts["driver"] == "json-file":
            assert json.loads((path / "log").read_text())["log"] == "x\n"
        rless("rm", "logged").expect()
        return facts

    configured = {"max-size": 1 << 20, "max-file": 2}
    for verb in ("run", "create"):
        assert log(verb) == {"driver": "json-file", "options": configured}
        assert log(verb, "--log-opt", "max-file=3", "--log-driver=local") == {
            "driver": "local",
            "options": {"max-size": 1 << 20, "max-file": 3},
        }
        assert log(verb, "--log-driver=none") == {"driver": "none", "options": {}}
    file.unlink()
    assert log("run") == {"driver": "local", "options": {}}


@pytest.mark.needs("user namespaces", "subordinate ids")
def test_info_shows_the_configuration(own_rless: Product) -> None:
    told = "{{.Driver}} {{.LoggingDriver}}"
    plain = own_rless("info", "--format", told).expect().out
    assert plain.endswith(" local\n") and not plain.startswith("copy")
    put(
        own_rless.home / ".config/rless/config.toml",
        "[storage]\ndriver = 'copy'\n[containers]\nlog-driver = 'none'\n",
    )
    assert own_rless("info", "--format", told).expect().out == "copy none\n"


class Counting(FaultyProxy):
    """Count how many layers are on their way at a time."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self._now = self.most = 0

    def _answer(self, handler: Any, fault: Fault | None, upstream: str) -> None:
        if fault is None:
            super()._answer(handler, fault, upstream)
            return
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            super()._answer(handler, fault, upstream)
        finally:
            with self._lock:
                self._now -= 1


@pytest.mark.needs("user namespaces", "subordinate ids", "docker-registry")
@pytest.mark.parametrize("most", [1, 2])
def test_concurrent_downloads_are_limited(own_rless: Product, most: int) -> None:
    put(
        own_rless.home / ".config/rless/config.toml",
        f"[images]\nmax-concurrent-downloads = {most}\n",
    )
    image = images.Image([images.layer({f"f{n}": str(n)}) for n in range(6)])
    with images.registry() as host, Counting(host) as proxy:
        images.push(image, f"{host}/few:1")
        proxy.faults = [Fault("GET", one["digest"], slow=0.3) for one in image.manifest["layers"]]
        own_rless("pull", "-q", f"{proxy.host}/few:1").expect()
        assert proxy.faults == []
        assert proxy.most == most


@pytest.mark.needs("user namespaces", "subordinate ids")
def test_limits_are_enforced_in_a_pull(own_rless: Product) -> None:
    put(own_rless.home / ".config/rless/config.toml", "[images.limits]\nlayers = 1\n")
    error = own_rless("pull", "-q", own_rless.image).expect(1).one_line_error()
    assert "has 2 layers; the limit is 1" in error


def test_config_show_names_values_and_sources(own_rless: Product, tmp_path: Path) -> None:
    rless = own_rless
    file = put(
        rless.home / ".config/rless/config.toml",
        "[containers]\nnetwork = 'none'\n[modules.x]\nenv = ['A={user}', \"B=\\\"q\\\"\"]\n",
    )
    env = {"RLESS_HPC_HOME": "false", "USER": "me"}
    said = rless("config", "show", "--origin", env=env).expect().out
    assert f'network = "none"  # {file}' in said
    assert "\nhome = false  # $RLESS_HPC_HOME\n" in said
    import pwd

    user = pwd.getpwuid(os.getuid()).pw_name
    again = rless("config", "show").expect().out
    assert config.parse(again.encode(), "c")["modules.x"] == {"env": [f"A={user}", 'B="q"']}
    told = rless("config", "show", "hpc", env=env).expect().lines()
    assert told[0] == "[hpc]"
    assert [line for line in told[1:] if line[0] != "#"] == ["home = false"]
    assert "# cwd = true" in told
    names = rless("config", "show", "--variables").expect().out.split()
    assert {"RLESS_STORAGE_ROOT", "RLESS_HPC_HOME", "RLESS_IMAGES_LIMITS_LAYERS"} <= set(names)
    file.write_text("[containers]\nnetwork = 5\n")
    assert str(file) in rless("config", "show").expect(1).one_line_error()


def test_config_show_tells_the_defaults(own_rless: Product) -> None:
    lines = own_rless("config", "show", env={"RLESS_STORAGE": None}).expect().lines()
    told = "\n".join(line.removeprefix("# ") for line in lines if " = " in line or line[:1] == "[")
    found = config.parse(told.encode(), "c")  # each is one that a file could have
    assert found["containers"]["stop-timeout"] == 10
    assert found["containers"]["userns"] == "auto"
    assert found["images.limits"]["json-bytes"] == 4 << 20
    assert found["storage"]["root"] == f"{own_rless.home}/.local/share/rless"
    known = {
        key for section, keys in config.KEYS.items() if section[:7] != "modules" for key in keys
    }
    assert known == {
        line.removeprefix("# ").split()[0] for line in lines if line[:1] not in ("", "[")
    }
