"""``mmprofile.prepare`` for ``spark-submit``, which starts files and no modules (docs/scale.md)."""

import runpy

runpy.run_module("mmprofile.prepare", run_name="__main__", alter_sys=True)
