"""What each front says that it is: tables for the launcher and for the verbs of versions.

Programs compare these numbers before they type anything else: a front claims a version whose
command line it covers. helpers/programs.py compiles them into the launcher, so nothing is imported
here, and `{release}` stands for the version of rless. A user sets another number for one program in
$RLESS_FRONT_VERSION.
"""

# front -> the number
NUMBERS = {
    "apptainer": "1.4.0+rless.{release}",
    "singularity": "1.4.0+rless.{release}",
    "run-singularity": "1.4.0+rless.{release}",  # what a SIF file that is executed calls
    "docker": "28.0.0",
    "podman": "5.4.0+rless.{release}",
}
API = "1.45"  # of Docker, which docker says that it speaks: that of `rless service`
# front -> the line of --version; {} is the number
LINES = {
    "apptainer": "apptainer version {}",
    "singularity": "apptainer version {}",
    "run-singularity": "apptainer version {}",
    "docker": "Docker version {}, build rless-{release}",
    "podman": "podman version {}",
}
