"""Floor 2: configuration, credentials, registry, image and device life."""
