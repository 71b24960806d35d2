"""The daemons that `twistd` offers."""

from twisted.application.service import ServiceMaker

filefly_data = ServiceMaker("FileFly data server", "filefly.data.tap", "FileFly data server", "filefly-data")
filefly_meta = ServiceMaker("FileFly metadata server", "filefly.meta.tap", "FileFly metadata server", "filefly-meta")
filefly_all = ServiceMaker(
    "FileFly in one process", "filefly.all_in_one", "FileFly's metadata and data servers in one process", "filefly"
)
