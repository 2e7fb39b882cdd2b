"""What the machine has and this process takes."""


def peak_memory() -> int:
    """The most this process has held so far, in bytes, mapped files included."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def physical_memory() -> int:
    """Bytes."""
    import psutil

    return int(psutil.virtual_memory().total)


def seconds_since_start() -> float:
    """Since this process started, imports included."""
    import time

    import psutil

    return time.time() - float(psutil.Process().create_time())
