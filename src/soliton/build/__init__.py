"""From a recipe to an image: definition files, bootstraps, steps."""
