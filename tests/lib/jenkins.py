"""A stand-in for the image jenkins/jenkins: a Java web application of the same shape.

As the real one it runs as user jenkins (1000) under tini, keeps all in the volume
/var/jenkins_home, serves HTTP on 8080 and agents on 50000, and ends in order on SIGTERM. It is
made of the JDK of this machine: a run-time image by jlink, and a class compiled here.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.lib import images
from tests.lib.images import Dir, File, Image, Link, layer

NEEDS = ("javac", "jlink", "tini-static", "docker-registry", "pasta", "tun", "busybox")
NAME = "jenkins/jenkins"

_SOURCE = r"""
import com.sun.net.httpserver.HttpServer;
import java.io.*;
import java.net.*;
import java.nio.file.*;
import java.util.stream.*;

public class Jenkins {
    static final Path HOME = Path.of(System.getenv("JENKINS_HOME"));

    static void write(String name, String text) throws IOException {
        Path file = HOME.resolve(name);
        Files.createDirectories(file.getParent());
        Files.writeString(file, text);
    }

    static String jobs() throws IOException {
        try (Stream<Path> found = Files.list(HOME.resolve("jobs"))) {
            return found.map(one -> one.getFileName().toString()).sorted()
                .collect(Collectors.joining("\n", "", "\n"));
        }
    }

    static void answer(Socket socket) {
        try (socket) {
            BufferedReader in = new BufferedReader(new InputStreamReader(socket.getInputStream()));
            String line = in.readLine();
            write("nodes/" + line + "/config.xml", "<slave/>\n");
            socket.getOutputStream().write(("Welcome " + line + "\n").getBytes());
        } catch (IOException error) {
            System.err.println(error);
        }
    }

    public static void main(String[] args) throws Exception {
        Files.createDirectories(HOME.resolve("jobs"));
        if (!Files.exists(HOME.resolve("secrets/initialAdminPassword")))
            write("secrets/initialAdminPassword", Long.toHexString(System.nanoTime()) + "\n");
        HttpServer web = HttpServer.create(new InetSocketAddress(8080), 0);
        web.createContext("/", exchange -> {
            String name = exchange.getRequestURI().getPath().substring(1);
            if (exchange.getRequestMethod().equals("POST"))
                write("jobs/" + name + "/config.xml", "<project/>\n");
            byte[] text = ("Jenkins\n" + jobs()).getBytes();
            exchange.sendResponseHeaders(200, text.length);
            exchange.getResponseBody().write(text);
            exchange.close();
        });
        ServerSocket agents = new ServerSocket(50000);
        Thread listener = new Thread(() -> {
            try {
                while (true)
                    answer(agents.accept());
            } catch (IOException error) {
                System.err.println(error);
            }
        });
        listener.setDaemon(true);
        listener.start();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            try {
                write("shutdown.log", "in order\n");
            } catch (IOException error) {
                System.err.println(error);
            }
            System.out.println("Jenkins stopped");
        }));
        web.start();
        System.out.println("Jenkins is fully up and running");
    }
}
"""
_START = "#!/bin/sh\nexec java $JAVA_OPTS -cp /usr/share/jenkins Jenkins\n"


@functools.cache
def image() -> Image:
    """Return the image; takes some seconds the first time."""
    with tempfile.TemporaryDirectory(prefix="rless-jenkins-") as directory:
        source = Path(directory, "Jenkins.java")
        source.write_text(_SOURCE)
        subprocess.run(["javac", "-d", f"{directory}/classes", source], check=True)
        subprocess.run(
            ["jlink", "--add-modules", "java.base,jdk.httpserver", "--strip-debug",
             "--no-header-files", "--no-man-pages", "--output", f"{directory}/jvm"],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        entries: dict[str, images.Value] = {}
        for top, at in ((f"{directory}/jvm", "opt/java"), (f"{directory}/classes", _CLASSES)):
            for path in sorted(Path(top).rglob("*")):
                name = f"{at}/{path.relative_to(top)}"
                entries[name] = None if path.is_dir() else _file(path)
        programs = [path for path in Path(directory, "jvm").rglob("*") if _is_elf(path)]
        for library in _libraries(programs):
            entries.setdefault(library[1:], _file(Path(library)))
    tini = shutil.which("tini-static")
    assert tini
    more: dict[str, images.Value] = {
        "usr/bin/tini": _file(Path(tini)),
        "usr/bin/java": Link("/opt/java/bin/java"),
        "usr/local/bin/jenkins.sh": File(_START, mode=0o755),
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n"
        "jenkins:x:1000:1000::/var/jenkins_home:/bin/sh\n",
        "etc/group": "root:x:0:\njenkins:x:1000:\n",
        "var/jenkins_home": Dir(uid=1000, gid=1000),
    }
    return images.busybox_image(
        [layer(_with_parents(entries)), layer(_with_parents(more))],
        User="jenkins",
        Entrypoint=["/usr/bin/tini", "--", "/usr/local/bin/jenkins.sh"],
        Cmd=None,
        Env=[
            "PATH=/usr/local/bin:/usr/bin:/bin",
            "JENKINS_HOME=/var/jenkins_home",
            "JAVA_OPTS=-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xmx64m",
        ],
        ExposedPorts={"8080/tcp": {}, "50000/tcp": {}},
        Volumes={"/var/jenkins_home": {}},
    )


_CLASSES = "usr/share/jenkins"


def _file(path: Path) -> File:
    return File(path.read_bytes(), mode=0o755 if os.access(path, os.X_OK) else 0o644)


def _is_elf(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(4) == b"\x7fELF"


def _libraries(programs: list[Path]) -> list[str]:
    """Return the shared libraries of the system that programs need, and their interpreter."""
    listed = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=True).stdout
    found = set()
    for line in listed.splitlines():
        words = line.replace("=>", " ").split()
        path = next((word for word in words if word.startswith("/") and word[-1] != ":"), "")
        if path.startswith(("/lib", "/usr/lib")):
            found.add(path)
    return sorted(found)


def _with_parents(entries: dict[str, images.Value]) -> dict[str, images.Value]:
    whole: dict[str, images.Value] = {}
    for name, value in entries.items():
        parents = name.split("/")[:-1]
        for count in range(1, len(parents) + 1):
            whole.setdefault("/".join(parents[:count]), None)
        whole[name] = value
    return whole
