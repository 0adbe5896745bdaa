"""raymix: hyper-parameter search on a cluster for models that find the sources of a mixed sound in an image."""

__version__ = "0.1.0"
