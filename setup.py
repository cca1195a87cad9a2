"""Everything about the package is written in settings.ini; this file hands it to setuptools."""
from configparser import ConfigParser
from pathlib import Path

import setuptools

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]

pythons = ["3.11", "3.12", "3.13", "3.14"]
licenses = {"mit": "MIT"}
statuses = {"3": "3 - Alpha", "4": "4 - Beta", "5": "5 - Production/Stable"}
suffix = "_requirements"
readme = (here / "README.md").read_text(encoding="utf-8").replace("](nbs/", f"]({cfg['git_url']}/raw/{cfg['branch']}/nbs/")  # its picture

setuptools.setup(
    name=cfg["lib_name"], version=cfg["version"], description=cfg["description"], keywords=cfg["keywords"],
    author=cfg["author"], author_email=cfg["author_email"], license=licenses[cfg["license"]],
    long_description=readme, long_description_content_type="text/markdown",
    classifiers=[
        f"Development Status :: {statuses[cfg['status']]}",
        f"Intended Audience :: {cfg['audience']}",
        f"Natural Language :: {cfg['language']}",
        *(f"Programming Language :: Python :: {v}" for v in pythons[pythons.index(cfg["min_python"]):]),
    ],
    python_requires=f">={cfg['min_python']}",
    packages=setuptools.find_packages(include=[cfg["lib_path"], cfg["lib_path"] + ".*"]), include_package_data=True, zip_safe=False,
    install_requires=cfg["requirements"].split(),
    extras_require={key.removesuffix(suffix): cfg[key].split() for key in cfg if key.endswith(suffix)},
    entry_points={"console_scripts": cfg["console_scripts"].split(),
                  "nbdev": [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"]},
)
