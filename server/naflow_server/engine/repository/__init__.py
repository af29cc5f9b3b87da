"""Models in a folder: which there are, which are loaded, and how new ones arrive."""

from naflow_server.engine.repository.layout import ModelFolder, VersionFolder, check_name, scan, scan_model
from naflow_server.engine.repository.store import Repository
from naflow_server.engine.repository.upload import Upload, Uploads

__all__ = [
    "ModelFolder",
    "Repository",
    "Upload",
    "Uploads",
    "VersionFolder",
    "check_name",
    "scan",
    "scan_model",
]
