"""gpu-render: the core. Knows DICOM, knows no HTTP; the kernels below it know neither."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("gpu-render")
except PackageNotFoundError:  # running from a source tree that was never installed
    __version__ = "0+unknown"

#: Part of every ETag. Raised whenever the bytes of any answer may change for unchanged input.
PIPELINE_VERSION = 2
