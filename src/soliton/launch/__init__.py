"""From a request to a plan: mounts, environment, identity, namespaces."""
