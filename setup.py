"""What setup.cfg cannot say: ``conf/`` ships inside the package, as ``mmprofile.conf``."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["mmprofile", "mmprofile.*", "datamodules", "datamodules.*"]), "mmprofile.conf"],
    package_dir={"mmprofile.conf": "conf"},
)
