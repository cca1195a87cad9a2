"""What the package needs beside a machine's own jax: read from settings.ini, looked up
on the machine and in a folder of wheels. Used by `.ci/gpu-wheels` and `.ci/gpu`."""
import configparser
import email
import importlib.metadata
import re
import zipfile
from pathlib import Path

try:
    from packaging import requirements, tags, utils
except ImportError:
    from pip._vendor.packaging import requirements, tags, utils

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".wheels"
PYTHON = "3.12"  # of the machine with the card

# A jax from wheels would be one for the CPU and hide the card; so jax and what it
# stands on are the machine's own, and so are the packages that are large.
HELD = "jax", "jaxlib", "numpy", "scipy", "ml-dtypes", "opt-einsum"
THERE = *HELD, "matplotlib", "safetensors", "huggingface-hub"


def required():
    "The run-time requirements of settings.ini."
    config = configparser.ConfigParser(delimiters=["="], interpolation=None)
    config.read(ROOT / "settings.ini", encoding="utf-8")
    lines = config["DEFAULT"]["requirements"].split()
    return [requirements.Requirement(line) for line in lines]


def needs(lines, python):
    "The requirements among `Requires-Dist` lines that hold for this Python on Linux."
    machine = dict(
        python_version=python,
        python_full_version=f"{python}.0",
        sys_platform="linux",
        platform_system="Linux",
        platform_machine="x86_64",
        os_name="posix",
        platform_python_implementation="CPython",
        implementation_name="cpython",
        extra="",
    )
    found = [requirements.Requirement(line) for line in lines or ()]
    return [r for r in found if r.marker is None or r.marker.evaluate(machine)]


def wheel_needs(path, python):
    "The same of a wheel."
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        about = email.message_from_bytes(archive.read(name))
    return needs(about.get_all("Requires-Dist"), python)


def name_of(requirement):
    "A package's name in the one form that all its spellings share."
    return re.sub(r"[-_.]+", "-", requirement.name).lower()


def installed(requirement):
    "The version on this machine, where it satisfies the requirement, else nothing."
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return None
    suits = requirement.specifier.contains(version, prereleases=True)
    return version if suits else None


def wheel_of(requirement, folder):
    "A wheel in the folder that satisfies the requirement and suits this Python."
    suitable = set(tags.sys_tags())
    for path in sorted(Path(folder).glob("*.whl")):
        name, version, _, kinds = utils.parse_wheel_filename(path.name)
        if name != name_of(requirement) or not kinds & suitable:
            continue
        if requirement.specifier.contains(version, prereleases=True):
            return path
    return None


def lacking(folder, python):  # (wheels to unpack, sentences about what is nowhere)
    "What this machine lacks, as wheels; and what neither it nor the folder has."
    wheels, held, missing, seen, queue = [], [], [], set(), required()
    while queue:
        requirement = queue.pop(0)
        name = name_of(requirement)
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        wanted = f"{requirement.name}{requirement.specifier}"
        if installed(requirement):
            if name not in THERE:
                queue += needs(importlib.metadata.requires(requirement.name), python)
        elif name in THERE:
            held.append(wanted)
        elif path := wheel_of(requirement, folder):
            wheels += [path] if path not in wheels else []
            queue += wheel_needs(path, python)
        else:
            missing.append(wanted)
    sentences = []
    if held:
        told = f"this machine has no {', '.join(held)}, which wheels do not bring"
        sentences.append(told)
    if missing:
        told = f"no {', '.join(missing)} on this machine, and no wheel for Python"
        remedy = f"run .ci/gpu-wheels {python} where there is a network"
        sentences.append(f"{told} {python} in {folder}: {remedy}")
    return wheels, sentences


def unpack(wheels, folder):
    "Installs wheels into a folder: a wheel is an archive of what is imported."
    for path in wheels:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
