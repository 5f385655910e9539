"""The compared systems that are no :class:`mmprofile.model.model.ProfileModel`."""
