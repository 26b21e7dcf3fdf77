"""Dockerfiles: text → instructions → stages → steps over the same stack, cache and image writer that definition files have."""
