"""Add to ``setup.cfg`` what it cannot say: ``conf/`` ships inside the package, as ``mmprofile.conf``.

``packages = find:`` finds packages where their names say; it cannot add one that lies elsewhere.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["mmprofile", "mmprofile.*", "datamodules", "datamodules.*"]), "mmprofile.conf"],
    package_dir={"mmprofile.conf": "conf"},
)
