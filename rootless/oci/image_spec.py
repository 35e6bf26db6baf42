"""The OCI image specification's documents, with the spec's own field names.

Only keys that rless reads or writes are named; unknown keys are kept if a document is passed on.
Values of these types have been checked by `rootless.image.config.manifest`.

Source: OCI image-spec 1.1: descriptor.md, manifest.md, image-index.md, config.md;
Docker's "Image Manifest V 2, Schema 2".
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypedDict

    class Platform(TypedDict, total=False):
        """Where an image runs, in Go's words: os "linux", architecture "amd64", variant "v8"."""

        os: str
        architecture: str
        variant: str

    class Descriptor(TypedDict, total=False):
        """Point to a blob by digest; `size` is in bytes."""

        mediaType: str
        digest: str
        size: int
        platform: Platform
        annotations: dict[str, str]

    class Manifest(TypedDict, total=False):
        """List the config and the layers (bottom first) of one image."""

        schemaVersion: int
        mediaType: str
        config: Descriptor
        layers: list[Descriptor]
        annotations: dict[str, str]

    class Index(TypedDict, total=False):
        """List manifests, one a platform."""

        schemaVersion: int
        mediaType: str
        manifests: list[Descriptor]
        annotations: dict[str, str]

    class HealthConfig(TypedDict, total=False):
        """Docker's HEALTHCHECK; durations in nanoseconds."""

        Test: list[str]
        Interval: int
        Timeout: int
        StartPeriod: int
        StartInterval: int
        Retries: int

    class ContainerConfig(TypedDict, total=False):
        """What a container of the image does by default; Docker's additions included."""

        User: str
        ExposedPorts: dict[str, object]
        Env: list[str]
        Entrypoint: list[str] | None
        Cmd: list[str] | None
        Volumes: dict[str, object] | None
        WorkingDir: str
        Labels: dict[str, str] | None
        StopSignal: str
        StopTimeout: int
        Hostname: str
        Domainname: str
        Shell: list[str]
        Healthcheck: HealthConfig

    class RootFs(TypedDict):
        """Name the layers by the digests of their uncompressed tars, bottom first."""

        type: str
        diff_ids: list[str]

    class History(TypedDict, total=False):
        """Tell how one layer was made."""

        created: str
        created_by: str
        author: str
        comment: str
        empty_layer: bool

    class ImageConfig(TypedDict, total=False):
        """The image's own document; its digest is the image id."""

        created: str
        author: str
        architecture: str
        os: str
        variant: str
        config: ContainerConfig
        rootfs: RootFs
        history: list[History]


OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"

INDEXES = (OCI_INDEX, DOCKER_LIST)
MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)
SCHEMA_1 = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)

# All that a registry may answer when it is asked for a manifest.
ACCEPT = ", ".join((*INDEXES, *MANIFESTS, *SCHEMA_1))

REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"
