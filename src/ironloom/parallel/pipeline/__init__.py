"""Models cut into stages that work on different processes."""
