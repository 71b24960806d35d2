"""The daemons that `twistd` offers."""

from twisted.application.service import ServiceMaker

filefly_data = ServiceMaker("FileFly data server", "filefly.data.tap", "FileFly data server", "filefly-data")
