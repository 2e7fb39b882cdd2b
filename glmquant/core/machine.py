"""What this process and this machine have, on Linux, macOS and Windows; psutil is imported where it is asked."""

import sys


def peak_memory() -> int:
    """The most bytes this process has held so far, mapped files included.

    The present size where a platform keeps no record of the highest.
    """
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        import psutil

        info = psutil.Process().memory_info()
        return int(getattr(info, "peak_wset", info.rss))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def physical_memory() -> int:
    """Bytes of the machine."""
    import psutil

    return int(psutil.virtual_memory().total)
