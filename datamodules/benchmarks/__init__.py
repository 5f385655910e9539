"""Published benchmarks of profiles, read as they are downloaded: a file for each (``docs/benchmarks_of_profiles.md``)."""
