"""NAFlow without JAX: pictures in, overlays, animations and reports out."""

from naflow_client.errors import ClientError, MapError, OutputError, PictureError, PreprocessingError
from naflow_client.pictures import load_picture
from naflow_client.preprocess import Prepared, Preprocessing

__all__ = [
    "ClientError",
    "MapError",
    "OutputError",
    "PictureError",
    "Prepared",
    "Preprocessing",
    "PreprocessingError",
    "load_picture",
]
