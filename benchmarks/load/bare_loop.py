"""Write files one after another as durably as a data server does, and nothing else: what the disk gives.

Usage: python -m benchmarks.load.bare_loop FOLDER COUNT SIZE
"""

import json
import os
import sys
import time
from pathlib import Path


def main(folder: Path, count: int, size: int) -> None:
    """Write each file beside its place, sync it, rename it, sync the folder; print the files a second as JSON."""
    folder.mkdir()
    (folder / "incoming").mkdir()
    directory = os.open(folder, os.O_RDONLY)
    data = os.urandom(size)
    begun = time.perf_counter()
    for number in range(count):
        incoming = f"{folder}/incoming/{number}"
        file = os.open(incoming, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        os.write(file, data)
        os.fsync(file)
        os.close(file)
        os.rename(incoming, f"{folder}/{number}")
        os.fsync(directory)
    print(json.dumps({"per_second": count / (time.perf_counter() - begun)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
