"""Layer maps as pictures. Display only: nothing here goes back into a result."""

from naflow_client.render.animation import Frame, layer_frames, write_gif
from naflow_client.render.colours import ANCHORS, TABLE, colour
from naflow_client.render.overlays import LayerMap, overlay, tile, write_overlays
from naflow_client.render.scaling import MapState, Normalised, map_state, normalise, upscale

__all__ = [
    "ANCHORS",
    "TABLE",
    "Frame",
    "LayerMap",
    "MapState",
    "Normalised",
    "colour",
    "layer_frames",
    "map_state",
    "normalise",
    "overlay",
    "tile",
    "upscale",
    "write_gif",
    "write_overlays",
]
