"""Images at rest: SIF, squashfs, sandboxes, OCI layouts and archives, and the cache."""
